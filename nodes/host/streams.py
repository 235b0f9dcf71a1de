"""Converts the packed latent of a sampling run to video and audio, and back.

ComfyUI packs by concatenating all values of video and audio to (B, 1, N).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import comfy.utils
from torch import Tensor

from ...ltx2_core.types import AVLatent


class Packing:
    """Splits the packed latent of a sampling run into video and audio, and joins them again.

    ComfyUI packs by concatenating all values of video and audio to one axis, (B, 1, values). ``shapes`` are
    those of the latents [video, audio], or of the only one; None if the run has no packed latent.
    """

    def __init__(self, shapes: Sequence[Sequence[int]] | None) -> None:
        self._shapes = shapes

    @classmethod
    def of(cls, conds: Mapping[str, Any]) -> Packing:
        """Create the packing of a run from ``conds``, its processed conditioning.

        ComfyUI stores the shapes of the latents there.
        """
        # Every entry of a run has the same shapes, so the first one found is enough.
        for entries in conds.values():
            for entry in entries:
                shapes = entry.get("model_conds", {}).get("latent_shapes")
                if shapes is not None:
                    return cls(shapes.cond)
        return cls(None)

    @property
    def has_both(self) -> bool:
        """Whether the run samples video and audio together, in a packed latent."""
        return self._shapes is not None and len(self._shapes) == 2

    def unpack(self, x: Tensor) -> AVLatent:
        """Split a packed latent (B, 1, values) into video and audio.

        Of a run with one stream, ``x`` is not packed and is returned as the video, even if it is audio.
        """
        if not self.has_both:
            return AVLatent(x, None)
        video, audio = comfy.utils.unpack_latents(x, self._shapes)
        return AVLatent(video, audio)

    def pack(self, latent: AVLatent) -> Tensor:
        """Join video and audio to (B, 1, values), the reverse of ``unpack``.

        If there is only one of them, it is returned unchanged.
        """
        streams: list[Tensor] = [stream for stream in (latent.video, latent.audio) if stream is not None]
        if len(streams) == 1:
            return streams[0]
        packed: Tensor = comfy.utils.pack_latents(streams)[0]
        return packed
