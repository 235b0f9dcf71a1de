"""Converts the packed latent of a sampling run to video and audio, and back.

Letters: B batch, N values of a packed latent: the host concatenates video and audio, (B, 1, N).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import comfy.utils
from torch import Tensor

from ...ltx2_core.types import AVLatent


class Packing:
    """Splits and joins the packed latent of a run, whose video and audio have ``shapes``."""

    def __init__(self, shapes: Sequence[Sequence[int]] | None) -> None:
        self._shapes = shapes

    @classmethod
    def of(cls, conds: Mapping[str, Any]) -> Packing:
        """Create the packing of a run from its processed conditioning, where the host stores the shapes."""
        # Every entry of a run has the same shapes, so the first one found is enough.
        for entries in conds.values():
            for entry in entries:
                shapes = entry.get("model_conds", {}).get("latent_shapes")
                if shapes is not None:
                    return cls(shapes.cond)
        return cls(None)

    @property
    def has_both(self) -> bool:
        """Whether the latent is packed, and so has both video and audio."""
        return self._shapes is not None and len(self._shapes) == 2

    def unpack(self, x: Tensor) -> AVLatent:
        """Split ``x`` (B, 1, N) into video and audio; a latent that is not packed is returned as video."""
        if not self.has_both:
            return AVLatent(x, None)
        video, audio = comfy.utils.unpack_latents(x, self._shapes)
        return AVLatent(video, audio)

    def pack(self, latent: AVLatent) -> Tensor:
        """Join video and audio to (B, 1, N), the reverse of ``unpack``."""
        streams: list[Tensor] = [stream for stream in (latent.video, latent.audio) if stream is not None]
        if len(streams) == 1:
            return streams[0]
        packed: Tensor = comfy.utils.pack_latents(streams)[0]
        return packed
