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
        generator = frame_generator(self.seed, sample, frame)
        return torch.randn(COLOURS, size.height, size.width, generator=generator)


def frame_generator(seed: int, sample: int, frame: int) -> torch.Generator:
    """The random generator of one frame of one sample, as :class:`FrameNoise` describes it."""
    digest = hashlib.sha256(f"{seed} {sample} {frame}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))


class VolumeNoise:
    """Noise of the whole clip from one generator, as the official decoder and ComfyUI draw it.

    ComfyUI seeds a generator on the device of the latent for every clip. The official pipelines continue
    the generator of the run, in the state that it has after sampling: give that as ``start``, which is copied
    and not advanced. Noise has the dtype of the latent, and another dtype has other numbers.

    Noise of the CPU takes the memory of the frames asked for. That of other devices is drawn at once and held
    in system memory: 6 bytes for each pixel of the clip in bfloat16. Raises ValueError for a clip whose
    length is not known beforehand.
    """

    def __init__(self, seed: int = 0, *, start: torch.Generator | None = None) -> None:
        self.seed = seed
        self.start = None if start is None else copied(start)
        self._drawn: tuple[ClipShape, torch.dtype, _Planes | Tensor] | None = None

    def box(self, size: ClipShape, frames: Span, rows: Span, columns: Span, like: Tensor) -> Tensor:
        if size.frames is None:
            raise ValueError(
                "noise of the whole clip needs the whole latent at once: give it as one tensor, or use the "
                "noise of each frame"
            )
        if like.is_meta:
            return like.new_empty((size.batch, COLOURS, frames.size, rows.size, columns.size))
        if self._drawn is None or self._drawn[:2] != (size, like.dtype):
            self._drawn = size, like.dtype, self._draw(size, size.frames, like)
        drawn = self._drawn[2]
        part = drawn[:, :, frames.start : frames.stop] if isinstance(drawn, Tensor) else drawn.part(frames)
        return part[..., rows.start : rows.stop, columns.start : columns.stop].to(like.device)

    def seeded(self, seed: int) -> VolumeNoise:
        return VolumeNoise(seed)

    def _draw(self, size: ClipShape, frames: int, like: Tensor) -> _Planes | Tensor:
        generator = self.start
        if generator is None:
            generator = torch.Generator(like.device).manual_seed(self.seed)
        shape = size.batch, COLOURS, frames, size.height, size.width
        # Numbers of the CPU come in blocks of 16, those of a GPU in an order that depends on the shape.
        if generator.device.type == "cpu" and size.height * size.width % 16 == 0:
            return _Planes(generator, shape, like.dtype)
        generator = copied(generator)
        return torch.randn(shape, generator=generator, device=generator.device, dtype=like.dtype).cpu()


class _Planes:
    """The tensor ``torch.randn(shape)`` of a generator of the CPU, drawn where it is read.

    ``shape`` is (B, C, F, H, W), of which one plane (H, W) follows the other; a plane has a multiple of 16
    numbers, for which draws of some planes equal one draw of all. The state of the generator, 5 kB, is held
    at the planes where an earlier part began or ended.
    """

    def __init__(
        self, generator: torch.Generator, shape: tuple[int, int, int, int, int], dtype: torch.dtype
    ) -> None:
        self.shape, self.dtype = shape, dtype
        self._states = {0: generator.get_state()}

    def part(self, frames: Span) -> Tensor:
        """The part (B, C, F', H, W) at the frames ``frames``."""
        batch, colours, length, height, width = self.shape
        out = torch.empty(batch, colours, frames.size, height, width, dtype=self.dtype)
        for number, planes in enumerate(out.flatten(0, 1)):
            self._fill(planes, number * length + frames.start)
        return out

    def _fill(self, planes: Tensor, first: int) -> None:
        """Write the planes from number ``first`` on to ``planes`` (F', H, W), which is contiguous."""
        before = max(plane for plane in self._states if plane <= first)
        generator = torch.Generator()
        generator.set_state(self._states[before])
        unused = planes.new_empty(planes.shape[1:]) if before < first else planes
        for _ in range(before, first):
            unused.normal_(generator=generator)
        self._states[first] = generator.get_state()
        planes.normal_(generator=generator)
        self._states[first + len(planes)] = generator.get_state()


def copied(generator: torch.Generator) -> torch.Generator:
    """A generator on the same device and in the same state as ``generator``."""
    copied = torch.Generator(generator.device)
    copied.set_state(generator.get_state())
    return copied
