"""Decodes in spatial tiles with borders, for frames so large that the decoder's caches exceed the memory.

Tiles are exact if their borders hold everything that their pixels depend on. Smaller borders are cross-faded
instead, which is an approximation. Time is exact either way, because every tile is decoded as a stream.

B batch, C channels, T frames; f h w grid of the latent; H W rows and columns of pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..config import VideoVAEConfig
from .conditioned import ConditionedPass
from .diffusion.reach import tile_halo
from .streaming import Stage, Stream, mark_last, run_stages

LATENTS_AT_ONCE = 4
"""Latent frames that a tile decodes before the next tile; fewer would copy its caches more often."""

Convert = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class SpaceTiles:
    """``columns`` x ``rows`` tiles of about the same size, each with a border of ``halo`` latent cells.

    Raises ValueError if any of the three is below 1.
    """

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
        """Size of the largest tile with its border, for a latent of size ``cells``.

        Both sizes are (rows, columns) in latent cells.
        """
        height, width = (
            max(span.stop - span.start for span in _spans(size, parts, self.halo))
            for size, parts in zip(cells, (self.rows, self.columns), strict=True)
        )
        return height, width

    def fits(self, cells: tuple[int, int], view: int) -> bool:
        """Whether a latent of ``cells``, (rows, columns), is large enough for these tiles.

        ``view`` is the decoder's ``field_of_view`` in latent cells. Borders narrower than that are
        cross-faded and must not overlap each other, so their tiles must be larger.
        """
        least = 1 if self.halo >= view else 2 * self.halo
        return all(
            parts == 1 or size // parts >= least
            for size, parts in zip(cells, (self.rows, self.columns), strict=True)
        )


def field_of_view(config: VideoVAEConfig) -> int:
    """How many latent cells to each side a decoded pixel depends on.

    Tiles with borders of this width are exact.
    """
    if config.diffusion is not None:
        # Only its last two stages are tiled.
        return tile_halo(config)
    # From the output back to the latent, in cells of the present resolution: one for the last convolution,
    # two for a residual block, one for an upsampler, and one for the first convolution.
    cells = 1
    for block in reversed(config.decoder_blocks):
        if block.is_residual:
            cells += 2 * block.num_layers
        else:
            cells = -(-cells // block.strides[2]) + 1
    return cells + 1


class TileWindow(NamedTuple):
    """The rows and columns of one tile, with its border, in latent cells of the whole frame."""

    rows: Span
    columns: Span


class TileDecoder(Protocol):
    """Interface of a decoder of spatial tiles: each tile is decoded piece by piece along the time axis."""

    def stream(self, window: TileWindow) -> Stream:
        """New, empty caches for decoding the tile ``window`` from the start of the clip to its end."""
        ...

    def origin(self, window: TileWindow) -> tuple[int, int]:
        """The (row, column) in pixels of the whole frame at which the decoded frames of the tile begin."""
        ...

    def decode(self, x: Tensor, stream: Stream, last: bool) -> Iterator[Tensor]:
        """Yield the frames (B, 3, T, H, W) of the next piece ``x`` (B, C, f, h, w) of a tile.

        ``stream`` holds the tile's caches; ``last`` says that ``x`` ends the clip.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class StageTiles:
    """Decodes tiles by a chain of ``stages``, of which the first takes the latent.

    ``conditioned`` has noised the latent, and holds what is added to the layers; None is nothing. ``scale``
    is the pixels along a side of a latent cell. If ``causal``, no frame depends on later ones.
    ``max_piece_bytes`` limits the size of one activation.
    """

    stages: Sequence[Stage]
    scale: int
    causal: bool
    max_piece_bytes: int
    conditioned: ConditionedPass | None = None

    def stream(self, window: TileWindow) -> Stream:
        if self.conditioned is None:
            return Stream(causal=self.causal)
        rows, columns = (slice(span.start, span.stop) for span in window)
        return self.conditioned.stream(causal=self.causal, rows=rows, columns=columns)

    def origin(self, window: TileWindow) -> tuple[int, int]:
        return window.rows.start * self.scale, window.columns.start * self.scale

    def decode(self, x: Tensor, stream: Stream, last: bool) -> Iterator[Tensor]:
        return run_stages(self.stages, x, stream, last, self.max_piece_bytes)


def decode_in_tiles(
    decoder: TileDecoder,
    latents: Iterable[Tensor],
    tiles: SpaceTiles,
    *,
    exact: bool,
    scale: int,
    convert: Convert | None = None,
    units: int = 1,
    at_once: int = LATENTS_AT_ONCE,
) -> Iterator[Tensor]:
    """Decode consecutive chunks (B, C, f, h, w) in tiles; yields frames (B, 3, T, H, W) on the CPU.

    The chunks are those of the latent, or of features inside of the decoder, in which a latent cell has
    become ``units`` rows and columns. A tile decodes ``at_once`` steps of their time axis (latent frames, if
    they are the latent) before the next tile is decoded. ``scale`` is the pixels per latent cell. With
    ``exact`` the decoded borders of tiles are dropped; without it they are cross-faded in float32, and
    returned in the dtype that ``convert`` gives. ``convert`` is applied to a tile's frames before they are
    copied to the CPU; None leaves them as they are. The caches of the tile that is being decoded are on the
    latents' device, those of the others on the CPU.
    """
    parts: list[_Part] = []
    # Frames are collected on the CPU, since a whole large frame may not fit next to a tile's caches.
    home, dtype = torch.device("cpu"), torch.float32
    for chunk, last in mark_last(piece for whole in latents for piece in whole.split(at_once, dim=2)):
        cells = chunk.shape[3] // units, chunk.shape[4] // units
        parts = parts or _parts(decoder, tiles, cells, exact=exact, scale=scale)
        frames: Tensor | None = None
        for part in parts:
            # At 3840x2160 the caches of a whole frame are some 8 GB (LTX-2.0 in bfloat16).
            part.stream.move(chunk.device)
            rows, columns = (slice(units * s.start, units * s.stop) for s in (part.rows, part.columns))
            pieces = decoder.decode(chunk[:, :, :, rows, columns], part.stream, last)
            decoded = deque(part.cropped(piece, convert).to(home) for piece in pieces)
            # Offload before the next tile starts, so that only one tile's caches are on the device.
            part.stream.move(home)
            if frames is None and decoded:
                dtype = decoded[0].dtype
                frames = _canvas(decoded[0], sum(piece.shape[2] for piece in decoded), parts, exact=exact)
            part.insert(decoded, frames, exact=exact)
        if frames is not None:
            yield frames if frames.dtype == dtype else _as(frames, dtype)


class Span(NamedTuple):
    """One axis of a tile in latent cells: ``start`` to ``stop`` with border, ``first`` to ``end`` without."""

    start: int
    first: int
    end: int
    stop: int


@dataclass(kw_only=True, eq=False)
class _Part:
    """One tile: its latent cells, the pixels that it contributes with their weights, and its caches.

    ``down`` and ``across`` are the pixel rows and columns of the frame to which it contributes, ``weight``
    (rows, columns) are their weights. ``origin`` is the pixel (row, column) of the frame at which its decoded
    cells begin.
    """

    rows: Span
    columns: Span
    down: slice
    across: slice
    origin: tuple[int, int]
    weight: Tensor
    stream: Stream = field(repr=False)

    def cropped(self, piece: Tensor, convert: Convert | None) -> Tensor:
        """Crop a decoded piece (B, 3, T, H, W) to the pixels that the tile contributes; apply ``convert``.

        ``convert`` None leaves it as it is.
        """
        top, left = self.down.start - self.origin[0], self.across.start - self.origin[1]
        height, width = self.weight.shape
        piece = piece[:, :, :, top : top + height, left : left + width]
        return piece.contiguous() if convert is None else convert(piece)

    def insert(self, pieces: deque[Tensor], frames: Tensor | None, *, exact: bool) -> None:
        """Copy decoded pieces, which follow each other in time, to the tile's place in ``frames``.

        Without ``exact`` the pieces are multiplied by the tile's weights and added. ``pieces`` is empty
        afterwards; ``frames`` (B, 3, T, H, W) may be None only if ``pieces`` is empty.
        """
        at = 0
        while pieces:
            assert frames is not None
            piece = pieces.popleft()
            place = frames[:, :, at : at + piece.shape[2], self.down, self.across]
            if exact:
                place.copy_(piece)
            else:
                place.add_(piece * self.weight)
            at += piece.shape[2]


def _parts(
    decoder: TileDecoder, tiles: SpaceTiles, cells: tuple[int, int], *, exact: bool, scale: int
) -> list[_Part]:
    parts = []
    for rows in _spans(cells[0], tiles.rows, tiles.halo):
        for columns in _spans(cells[1], tiles.columns, tiles.halo):
            window = TileWindow(rows, columns)
            (down, fade_down), (across, fade_across) = (
                _contribution(span, scale, exact=exact) for span in (rows, columns)
            )
            parts.append(
                _Part(
                    rows=rows,
                    columns=columns,
                    down=down,
                    across=across,
                    origin=decoder.origin(window),
                    weight=fade_down[:, None] * fade_across,
                    # Every tile has a stream of its own, so that time is exact.
                    stream=decoder.stream(window),
                )
            )
    return parts


def _spans(size: int, parts: int, halo: int) -> list[Span]:
    """Divide ``size`` latent cells into ``parts`` that differ by at most one cell in size.

    Each gets borders of ``halo`` cells, except at the edges of the latent.
    """
    # Rounded cuts spread the remainder evenly over the tiles.
    cuts = [round(size * number / parts) for number in range(parts + 1)]
    return [Span(max(0, first - halo), first, end, min(size, end + halo)) for first, end in pairwise(cuts)]


def _contribution(span: Span, scale: int, *, exact: bool) -> tuple[slice, Tensor]:
    """The pixels along one axis that a tile contributes, and the weight of each.

    ``span`` is in latent cells of ``scale`` pixels. With ``exact`` the borders contribute nothing; without it
    the weights fade linearly over them.
    """
    if exact:
        return slice(span.first * scale, span.end * scale), torch.ones((span.end - span.first) * scale)
    # Both tiles' borders overlap at a cut, so a fade is two halos long, centred on it.
    weights = torch.ones((span.stop - span.start) * scale)
    before, after = (2 * scale * size for size in (span.first - span.start, span.stop - span.end))
    if before:
        # Sampled at the centres of pixels: the fades of two neighbours are mirror images and add up to 1
        # without a division.
        weights[:before] = (torch.arange(before) + 0.5) / before
    if after:
        weights[-after:] = (after - torch.arange(after) - 0.5) / after
    return slice(span.start * scale, span.stop * scale), weights


def _canvas(like: Tensor, frames: int, parts: Sequence[_Part], *, exact: bool) -> Tensor:
    height, width = parts[-1].down.stop, parts[-1].across.stop
    shape = (*like.shape[:2], frames, height, width)
    # Cross-faded tiles are added up, which in bfloat16 would leave seams.
    return like.new_empty(shape) if exact else like.new_zeros(shape, dtype=torch.float32)


def _as(frames: Tensor, dtype: torch.dtype) -> Tensor:
    # Sums of weighted bytes are not whole, and a cast alone would truncate them.
    return frames.round_().to(dtype) if dtype == torch.uint8 else frames.to(dtype)
