"""Between the packed latent of a sampling run and its streams.

Letters: B batch, N values of a packed latent: the host lays video and audio behind each other, (B, 1, N).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import comfy.utils
from torch import Tensor

from ...ltx2_core.types import AVLatent


class Packing:
    """How the streams of one run lie in its latent."""

    def __init__(self, shapes: Sequence[Sequence[int]] | None) -> None:
        self._shapes = shapes

    @classmethod
    def of(cls, conds: Mapping[str, Any]) -> Packing:
        """From the processed conditioning of a guider, where the host leaves the shapes."""
        for entries in conds.values():
            for entry in entries:
                shapes = entry.get("model_conds", {}).get("latent_shapes")
                if shapes is not None:
                    return cls(shapes.cond)
        return cls(None)

    @property
    def has_both(self) -> bool:
        return self._shapes is not None and len(self._shapes) == 2

    def unpack(self, x: Tensor) -> AVLatent:
        """The streams of ``x``; what is no audio-video latent counts as video."""
        if not self.has_both:
            return AVLatent(x, None)
        video, audio = comfy.utils.unpack_latents(x, self._shapes)
        return AVLatent(video, audio)

    def pack(self, latent: AVLatent) -> Tensor:
        """The reverse."""
        streams = [stream for stream in (latent.video, latent.audio) if stream is not None]
        return streams[0] if len(streams) == 1 else comfy.utils.pack_latents(streams)[0]
