"""Decoding a clip in spatial tiles, in turn, with a border around each: for frames whose state does not fit.

A tile whose border holds all that its pixels depend on is exact. Where there is no room for so much, the
borders are cross-faded instead, which is an approximation. Time is exact either way: every tile is streamed.

B batch, C channels, T frames; f h w grid of the latent; H W rows and columns of pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ..config import VideoVAEConfig
from .streaming import Stage, Stream, mark_last, run_stages

LATENTS_AT_ONCE = 4
"""Latent frames that one tile takes before the next one gets its turn; fewer copy states more often."""

Convert = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class SpaceTiles:
    """``columns`` x ``rows`` tiles of about one size, each decoded with ``halo`` latent cells around it."""

    columns: int = 1
    rows: int = 1
    halo: int = 0

    def __post_init__(self) -> None:
        if self.columns < 1 or self.rows < 1 or self.halo < 1:
            raise ValueError(
                f"tiles need at least one column, row and cell of border; got {self.columns} columns, "
                f"{self.rows} rows and {self.halo} cells"
            )

    @property
    def count(self) -> int:
        return self.columns * self.rows

    def largest(self, cells: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the largest tile with its border, of a latent of ``cells`` rows and columns."""
        height, width = (
            max(span.stop - span.start for span in _spans(size, parts, self.halo))
            for size, parts in zip(cells, (self.rows, self.columns), strict=True)
        )
        return height, width

    def fits(self, cells: tuple[int, int], view: int) -> bool:
        """Whether a latent of ``cells`` rows and columns can be cut so; ``view`` is ``field_of_view``.

        Borders that are faded may not reach into each other.
        """
        least = 1 if self.halo >= view else 2 * self.halo
        return all(
            parts == 1 or size // parts >= least
            for size, parts in zip(cells, (self.rows, self.columns), strict=True)
        )


def field_of_view(config: VideoVAEConfig) -> int:
    """How many latent cells to each side a decoded pixel depends on: a border of so many is exact."""
    cells = 1
    for block in reversed(config.decoder_blocks):
        if block.kind == "res_x":
            cells += 2 * block.num_layers
        else:
            cells = -(-cells // block.strides[2]) + 1
    return cells + 1


def decode_in_tiles(
    stages: Sequence[Stage],
    latents: Iterable[Tensor],
    tiles: SpaceTiles,
    *,
    exact: bool,
    scale: int,
    causal: bool,
    max_piece_bytes: int,
    convert: Convert | None = None,
) -> Iterator[Tensor]:
    """Latents (B, C, f, h, w), one after another in time -> frames (B, 3, T, H, W) on the CPU.

    Only the tile that computes has its state where the latents are; those of the others wait on the CPU.
    ``convert`` is applied to what a tile makes before it leaves its device. Faded borders make float32 of it
    for the time being.
    """
    parts: list[_Part] = []
    home, dtype = torch.device("cpu"), torch.float32
    for chunk, last in mark_last(piece for whole in latents for piece in whole.split(LATENTS_AT_ONCE, dim=2)):
        parts = parts or _parts(
            tiles, (chunk.shape[3], chunk.shape[4]), exact=exact, scale=scale, causal=causal
        )
        frames: Tensor | None = None
        for part in parts:
            part.stream.move(chunk.device)
            rows, columns = part.rows, part.columns
            own = chunk[:, :, :, rows.start : rows.stop, columns.start : columns.stop]
            pieces = run_stages(stages, own, part.stream, last, max_piece_bytes)
            made = deque(part.shown(piece, convert).to(home) for piece in pieces)
            part.stream.move(home)
            if frames is None and made:
                dtype = made[0].dtype
                frames = _canvas(made[0], sum(piece.shape[2] for piece in made), parts, exact=exact)
            part.lay(made, frames, exact=exact)
        if frames is not None:
            yield frames if frames.dtype == dtype else _as(frames, dtype)


class _Span(NamedTuple):
    """Cells ``start`` to ``stop`` of an axis, of which ``first`` to ``end`` are not border."""

    start: int
    first: int
    end: int
    stop: int


@dataclass(kw_only=True, eq=False)
class _Part:
    """A tile: its cells, what it shows in pixels, and what it remembers."""

    rows: _Span
    columns: _Span
    down: slice
    across: slice
    origin: tuple[int, int]
    weight: Tensor
    stream: Stream = field(repr=False)

    def shown(self, piece: Tensor, convert: Convert | None) -> Tensor:
        """Of a decoded piece (B, 3, T, H, W), the pixels that count."""
        top, left = self.down.start - self.origin[0], self.across.start - self.origin[1]
        height, width = self.weight.shape
        piece = piece[:, :, :, top : top + height, left : left + width]
        return piece.contiguous() if convert is None else convert(piece)

    def lay(self, made: deque[Tensor], frames: Tensor | None, *, exact: bool) -> None:
        """Put the pieces in their place, one after another in time; they are gone then."""
        at = 0
        while made:
            assert frames is not None
            piece = made.popleft()
            place = frames[:, :, at : at + piece.shape[2], self.down, self.across]
            if exact:
                place.copy_(piece)
            else:
                place.add_(piece * self.weight)
            at += piece.shape[2]


def _parts(
    tiles: SpaceTiles, cells: tuple[int, int], *, exact: bool, scale: int, causal: bool
) -> list[_Part]:
    parts = []
    for rows in _spans(cells[0], tiles.rows, tiles.halo):
        for columns in _spans(cells[1], tiles.columns, tiles.halo):
            (down, fade_down), (across, fade_across) = (
                _shown(span, scale, exact=exact) for span in (rows, columns)
            )
            parts.append(
                _Part(
                    rows=rows,
                    columns=columns,
                    down=down,
                    across=across,
                    origin=(rows.start * scale, columns.start * scale),
                    weight=fade_down[:, None] * fade_across,
                    stream=Stream(causal=causal),
                )
            )
    return parts


def _spans(size: int, parts: int, halo: int) -> list[_Span]:
    """An axis of ``size`` cells in ``parts``, whose lengths differ by one at most."""
    cuts = [round(size * number / parts) for number in range(parts + 1)]
    return [_Span(max(0, first - halo), first, end, min(size, end + halo)) for first, end in pairwise(cuts)]


def _shown(span: _Span, scale: int, *, exact: bool) -> tuple[slice, Tensor]:
    """The pixels of an axis that a tile shows, and their weights, which fade over its borders."""
    if exact:
        return slice(span.first * scale, span.end * scale), torch.ones((span.end - span.first) * scale)
    weights = torch.ones((span.stop - span.start) * scale)
    before, after = (2 * scale * size for size in (span.first - span.start, span.stop - span.end))
    if before:
        weights[:before] = (torch.arange(before) + 0.5) / before
    if after:
        weights[-after:] = (after - torch.arange(after) - 0.5) / after
    return slice(span.start * scale, span.stop * scale), weights


def _canvas(like: Tensor, frames: int, parts: Sequence[_Part], *, exact: bool) -> Tensor:
    height, width = parts[-1].down.stop, parts[-1].across.stop
    shape = (*like.shape[:2], frames, height, width)
    return like.new_empty(shape) if exact else like.new_zeros(shape, dtype=torch.float32)


def _as(frames: Tensor, dtype: torch.dtype) -> Tensor:
    return frames.round_().to(dtype) if dtype == torch.uint8 else frames.to(dtype)
