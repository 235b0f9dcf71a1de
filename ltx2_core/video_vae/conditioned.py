"""Decoding with a timestep and with noise (LTX-Video): in the latent before, and in layers of the decoder.

B batch, C channels, P parameters, f h w grid of the latent; H W rows and columns inside of the decoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ..latent_filters import tone_map
from .diffusion.noise import frame_generator
from .residual import ResBlock, ResBlocks
from .streaming import Conditions, Stream
from .time_embedder import TimeEmbedder
from .windows import Windows

Cells = tuple[int, int]
"""Rows and columns."""


class DecodeNoise(Protocol):
    """Gives the noise of one decode of a clip."""

    def latent(self, first: int, like: Tensor) -> Tensor:
        """Noise for ``like`` (B, C, f, h, w): the clip's latent frames from number ``first`` on."""
        ...

    def planes(self, sizes: Sequence[Cells], like: Tensor) -> Sequence[Tensor]:
        """A plane of noise for each of ``sizes``, (rows, columns), in the order in which they are used."""
        ...


@dataclass(frozen=True)
class SeededNoise:
    """Noise of the CPU from a seed, so that a clip in pieces has the noise of the whole clip.

    Each latent frame of each sample has a generator of its own, the planes of a clip have one.
    """

    seed: int = 0

    def latent(self, first: int, like: Tensor) -> Tensor:
        samples, channels, frames, *cells = like.shape
        out = torch.empty(like.shape)
        for sample in range(samples):
            for frame in range(frames):
                generator = frame_generator(self.seed, sample, first + frame)
                out[sample, :, frame] = torch.randn(channels, *cells, generator=generator)
        return out.to(like)

    def planes(self, sizes: Sequence[Cells], like: Tensor) -> Sequence[Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        return [torch.randn(size, generator=generator).to(like) for size in sizes]


class DrawnNoise:
    """Noise from one generator, as ComfyUI draws it: that of the whole latent, then the planes.

    Raises ValueError for a clip in pieces.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def latent(self, first: int, like: Tensor) -> Tensor:
        if first:
            raise ValueError("noise of the whole latent needs it as one tensor: use the noise of each frame")
        return self._draw(tuple(like.shape), like)

    def planes(self, sizes: Sequence[Cells], like: Tensor) -> Sequence[Tensor]:
        return [self._draw(size, like) for size in sizes]

    def _draw(self, size: tuple[int, ...], like: Tensor) -> Tensor:
        where = self._generator.device
        return torch.randn(size, generator=self._generator, device=where, dtype=like.dtype).to(like.device)


@dataclass(frozen=True)
class NoisyDecoding:
    """How a latent is changed before it is decoded.

    ``scale`` of it are replaced by ``noise``, and its large values are compressed by ``tone_map`` (0 is off).
    ``timestep`` is the noise level that the decoder is told; None for a decoder that takes none.
    """

    timestep: float | None = None
    scale: float = 0.0
    noise: DecodeNoise = SeededNoise()
    tone_map: float = 0.0


class ConditionedPass:
    """One pass of a clip through ``decoder``, the network of a video decoder, with ``settings``.

    The latent goes through :meth:`noised` chunk by chunk; :meth:`stream` is then the start of decoding it.
    Windows of convolutions are made by ``windows`` where it takes the latent.
    """

    def __init__(self, decoder: Any, settings: NoisyDecoding, windows: Windows) -> None:
        self._decoder, self._settings, self._windows = decoder, settings, windows
        self._joined = False
        self._frames = 0
        self._cells: Cells | None = None
        self._conditions: Mapping[object, Conditions] = {}

    def noised(self, latent: Tensor) -> Tensor:
        """The clip's next chunk (B, C, f, h, w), normalised, with its share of noise."""
        scale, first = self._settings.scale, self._frames
        self._frames += latent.shape[2]
        if scale:
            latent = latent * (1 - scale) + self._settings.noise.latent(first, latent) * scale
        if self._cells is None:
            # After the noise of the latent, which ComfyUI draws first.
            self._cells = (latent.shape[3], latent.shape[4])
            self._joined = self._windows.takes(latent)
            self._conditions = _conditions(self._decoder, self._settings, self._cells, latent)
        compression = self._settings.tone_map
        return tone_map(latent, compression) if compression else latent

    def stream(self, *, causal: bool, rows: slice | None = None, columns: slice | None = None) -> Stream:
        """New, empty caches for the clip, or for a tile of it: these ``rows`` and ``columns`` of cells."""
        stream = Stream(causal=causal)
        stream.conditions = self._conditions
        stream.windows = self._windows if self._joined else None
        if rows is not None and columns is not None and self._cells is not None:
            stream.conditions = {
                owner: _cropped(own, self._cells, rows, columns) for owner, own in self._conditions.items()
            }
        return stream


def _conditions(
    decoder: Any, settings: NoisyDecoding, cells: Cells, like: Tensor
) -> dict[object, Conditions]:
    """The conditions of all modules of ``decoder`` for a latent of ``cells``, in the dtype of ``like``."""
    blocks, sizes = _noisy_blocks(decoder, cells)
    planes = settings.noise.planes(sizes, like) if sizes else ()
    found: dict[object, Conditions] = {
        block: Conditions(planes=tuple(planes[2 * number : 2 * number + 2]))
        for number, block in enumerate(blocks)
    }
    if settings.timestep is None:
        return found
    timestep = settings.timestep * decoder.timestep_scale_multiplier.float().reshape(1)
    for stage in decoder.up_blocks:
        if isinstance(stage, ResBlocks) and stage.time_embedder is not None:
            embedded = stage.time_embedder(timestep, like)
            for block in stage.blocks:
                found[block] = _modulated(found.get(block, Conditions()), embedded, block.scale_shift_table)
    last: TimeEmbedder = decoder.last_time_embedder
    head = _modulated(Conditions(), last(timestep, like), decoder.last_scale_shift_table)
    return {**found, decoder: head}


def _modulated(conditions: Conditions, embedded: Tensor, table: Tensor) -> Conditions:
    """``conditions`` with shifts and scales from ``embedded`` (1, P C) and a learned ``table`` (P, C)."""
    # Shift and scale in turn, a pair for each convolution.
    values = (table.to(embedded) + embedded.unflatten(1, (len(table), -1))).unbind(1)
    shaped = [value[:, :, None, None, None] for value in values]
    return replace(conditions, shifts=tuple(shaped[::2]), scales=tuple(shaped[1::2]))


def _noisy_blocks(decoder: Any, cells: Cells) -> tuple[list[ResBlock], list[Cells]]:
    """The residual blocks that add noise, and the size of each plane of noise, two for a block."""
    rows, columns = cells
    blocks: list[ResBlock] = []
    sizes: list[Cells] = []
    for stage in decoder.up_blocks:
        if not isinstance(stage, ResBlocks):
            strides = getattr(stage, "strides", (1, 1, 1))
            rows, columns = rows * strides[1], columns * strides[2]
        elif stage.inject_noise:
            blocks += stage.blocks
            sizes += [(rows, columns)] * (2 * len(stage.blocks))
    return blocks, sizes


def _cropped(conditions: Conditions, cells: Cells, rows: slice, columns: slice) -> Conditions:
    """``conditions`` with the part of the planes that belongs to a tile of a latent of ``cells``."""

    def part(plane: Tensor) -> Tensor:
        # A whole number of rows and columns of a plane belong to each cell.
        down, across = (size // count for size, count in zip(plane.shape, cells, strict=True))
        return plane[
            rows.start * down : rows.stop * down,
            columns.start * across : columns.stop * across,
        ]

    return replace(conditions, planes=tuple(part(plane) for plane in conditions.planes))
