"""Conversion between the packed latent of a sampling run and its streams.

Letters: B batch, N values of a packed latent: the host concatenates video and audio, (B, 1, N).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import comfy.utils
from torch import Tensor

from ...ltx2_core.types import AVLatent


class Packing:
    """Where video and audio are in the packed latent of a run, from their ``shapes``."""

    def __init__(self, shapes: Sequence[Sequence[int]] | None) -> None:
        self._shapes = shapes

    @classmethod
    def of(cls, conds: Mapping[str, Any]) -> Packing:
        """The layout of a run, from the processed conditioning, in which the host stores the shapes."""
        # Every entry of a run has the same shapes, so the first one found is enough.
        for entries in conds.values():
            for entry in entries:
                shapes = entry.get("model_conds", {}).get("latent_shapes")
                if shapes is not None:
                    return cls(shapes.cond)
        return cls(None)

    @property
    def has_both(self) -> bool:
        """Whether the latent holds video and audio."""
        return self._shapes is not None and len(self._shapes) == 2

    def unpack(self, x: Tensor) -> AVLatent:
        """The streams of ``x`` (B, 1, N); any other latent is returned as video."""
        if not self.has_both:
            return AVLatent(x, None)
        video, audio = comfy.utils.unpack_latents(x, self._shapes)
        return AVLatent(video, audio)

    def pack(self, latent: AVLatent) -> Tensor:
        """The reverse of ``unpack``."""
        streams: list[Tensor] = [stream for stream in (latent.video, latent.audio) if stream is not None]
        if len(streams) == 1:
            return streams[0]
        packed: Tensor = comfy.utils.pack_latents(streams)[0]
        return packed
