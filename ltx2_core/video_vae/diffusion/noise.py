"""The noise that the diffusion decoder starts from: where it comes from, as a value that can be chosen.

B batch, F frames, H W rows and columns of pixels.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .windows import Span

COLOURS = 3


class NoiseSource(Protocol):
    """Gives the noise of any box of a clip."""

    def box(self, size: ClipShape, frames: Span, rows: Span, columns: Span, like: Tensor) -> Tensor:
        """The noise (B, 3, F, H, W) of some pixel frames, pixel rows and pixel columns of a clip of ``size``.

        Its dtype and device are those of ``like``. A pixel has the same noise however a clip is cut into
        boxes.
        """
        ...

    def seeded(self, seed: int) -> NoiseSource:
        """Noise of the same kind with another seed."""
        ...


@dataclass(frozen=True)
class ClipShape:
    """How many samples are decoded at a time, and their height and width in pixels.

    ``frames`` is how many frames each has, None if that is not known beforehand.
    """

    batch: int
    height: int
    width: int
    frames: int | None


@dataclass(frozen=True)
class FrameNoise:
    """Noise of each frame by itself, so that a clip of any length takes the memory of a few frames.

    Frame i of sample b is ``torch.randn(3, H, W)`` in float32 of a generator on the CPU, whose seed is the
    first eight bytes of the SHA-256 of the text "seed b i", as a big-endian number.
    """

    seed: int = 0

    def box(self, size: ClipShape, frames: Span, rows: Span, columns: Span, like: Tensor) -> Tensor:
        shape = (size.batch, COLOURS, frames.size, rows.size, columns.size)
        if like.is_meta:
            return like.new_empty(shape)
        out = like.new_empty(shape)
        for sample in range(size.batch):
            for at, frame in enumerate(range(*frames)):
                whole = self._frame(size, sample, frame)
                out[sample, :, at] = whole[:, rows.start : rows.stop, columns.start : columns.stop]
        return out

    def seeded(self, seed: int) -> FrameNoise:
        return FrameNoise(seed)

    def _frame(self, size: ClipShape, sample: int, frame: int) -> Tensor:
        digest = hashlib.sha256(f"{self.seed} {sample} {frame}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))
        return torch.randn(COLOURS, size.height, size.width, generator=generator)


class VolumeNoise:
    """Noise of the whole clip from one generator, as the official decoder and ComfyUI draw it.

    It is drawn on the device and in the dtype of the latent, and held in system memory: 6 bytes for each
    pixel of the clip in bfloat16. Raises ValueError for a clip whose length is not known beforehand.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._drawn: tuple[ClipShape, Tensor] | None = None

    def box(self, size: ClipShape, frames: Span, rows: Span, columns: Span, like: Tensor) -> Tensor:
        if self._drawn is None or self._drawn[0] != size:
            self._drawn = size, self._draw(size, like)
        part = self._drawn[1][:, :, frames.start : frames.stop]
        return part[..., rows.start : rows.stop, columns.start : columns.stop].to(like.device)

    def seeded(self, seed: int) -> VolumeNoise:
        return VolumeNoise(seed)

    def _draw(self, size: ClipShape, like: Tensor) -> Tensor:
        if size.frames is None:
            raise ValueError(
                "noise of the whole clip needs the whole latent at once: give it as one tensor, or use the "
                "noise of each frame"
            )
        shape = (size.batch, COLOURS, size.frames, size.height, size.width)
        if like.is_meta:
            return like.new_empty(shape)
        generator = torch.Generator(like.device).manual_seed(self.seed)
        drawn = torch.randn(shape, generator=generator, device=like.device, dtype=like.dtype)
        return drawn.cpu()
