"""Overlapping tiles with linear cross-fades, in the reference's layout (Lightricks/LTX-2, ``tiling.py``).

An approximation: a tile has no access to pixels beyond it. Tiles in time only serve to reproduce the
reference, since streaming in time is exact; ``space_tiles`` has exact tiles in space.

B batch, C channels; f h w grid of the latent; F H W frames, rows and columns of pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .decoder import VideoDecoder
from .encoder import VideoEncoder
from .half import AutoencoderHalf, check_5d
from .streaming import MAX_PIECE_BYTES

MIN_CELLS = 2
"""Smallest size of a tile, and smallest overlap when encoding, in latent cells."""


class Tile(NamedTuple):
    """Size and overlap of the tiles along one axis, in pixel frames, pixel rows or pixel columns."""

    size: int
    overlap: int


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """Tiles along time, height and width; an axis that is None is not cut.

    Sizes and overlaps are multiples of 8 frames or of 32 pixels.
    """

    frames: Tile | None = None
    height: Tile | None = None
    width: Tile | None = None


def tiled_decode(
    decoder: VideoDecoder,
    latent: Tensor,
    tiling: Tiling,
    *,
    causal: bool | None = None,
    max_piece_bytes: int = MAX_PIECE_BYTES,
) -> Iterator[Tensor]:
    """Decode a normalised latent (B, C, f, h, w) in overlapping tiles.

    Yields frames (B, 3, T, H, W) in [-1, 1]. Frames have the dtype of the latent and are yielded once all
    their tiles are blended. Until then they are held in float32: the frames of one time tile, or all of them
    if time is not cut. ``causal`` and ``max_piece_bytes`` are those of ``VideoDecoder.decode``. Raises
    ValueError for tiles that do not fit the latent grid.
    """
    check_5d(latent, decoder.config.latent_channels, "latent")
    space = decoder.space_scale
    times, rows, columns = _windows(decoder, tiling, latent.shape, min_overlap=0)
    height, width = (space * size for size in latent.shape[3:])
    blend = _Blend(latent, decoder.config.channels, height, width)
    frame_windows = [time.to_frames(decoder.time_scale) for time in times]
    for index, (time, frames) in enumerate(zip(times, frame_windows, strict=True)):
        for row, column in product(rows, columns):
            tile = latent[:, :, time.start : time.stop, row.start : row.stop, column.start : column.stop]
            pieces = decoder.decode_stream(tile, causal=causal, max_piece_bytes=max_piece_bytes)
            blend.add(pieces, frames, row.to_pixels(space), column.to_pixels(space))
        is_last = index == len(times) - 1
        yield blend.release(frames.stop if is_last else frame_windows[index + 1].start)


def tiled_encode(
    encoder: VideoEncoder, frames: Tensor, tiling: Tiling, *, max_piece_bytes: int = MAX_PIECE_BYTES
) -> Tensor:
    """Encode frames (B, 3, F, H, W) in [-1, 1] in overlapping tiles -> normalised latent (B, C, f, h, w).

    The latent has the dtype of the frames. ``max_piece_bytes`` is that of ``VideoEncoder.encode``. Raises
    ValueError for frames or tiles that do not fit the latent grid.
    """
    encoder.check_frames(frames)
    time_scale, space = encoder.time_scale, encoder.space_scale
    grid = (1 + (frames.shape[2] - 1) // time_scale, frames.shape[3] // space, frames.shape[4] // space)
    blend = _Blend(frames, encoder.config.latent_channels, *grid[1:])
    windows = _windows(encoder, tiling, (*frames.shape[:2], *grid), min_overlap=MIN_CELLS)
    for time, row, column in product(*windows):
        span, down, across = time.to_frames(time_scale), row.to_pixels(space), column.to_pixels(space)
        tile = frames[:, :, span.start : span.stop, down.start : down.stop, across.start : across.stop]
        blend.add(encoder.encode_stream(tile, max_piece_bytes=max_piece_bytes), time, row, column)
    return blend.release(grid[0])


class Window(NamedTuple):
    """A tile along one axis: positions ``start`` to ``stop`` (exclusive), in latent cells or in pixels.

    Its first ``fade_in`` and last ``fade_out`` positions overlap neighbours and are cross-faded.
    """

    start: int
    stop: int
    fade_in: int
    fade_out: int

    def to_pixels(self, scale: int) -> Window:
        """Convert a window of latent rows or columns, of ``scale`` pixels each, to pixels."""
        return Window(*(scale * value for value in self))

    def to_frames(self, scale: int) -> Window:
        """Convert a window of latent frames, of ``scale`` pixel frames each, to pixel frames.

        The first latent frame of a tile decodes to one pixel frame.
        """
        stop = 1 + (self.stop - 1) * scale
        fade_in = 1 + (self.fade_in - 1) * scale if self.fade_in else 0
        return Window(self.start * scale, stop, fade_in, self.fade_out * scale)

    def mask(self, device: torch.device, *, from_zero: bool = False) -> Tensor:
        """Blending weights (stop - start,) in float32, from 0 to 1, which ramp over the overlaps.

        With ``from_zero`` the first weight of the fade-in is 0.
        """
        weights = torch.ones(self.stop - self.start, device=device)
        if self.fade_in:
            # The ends of the line are left out, so that no overlapping position has all of its weight from
            # one tile alone.
            ramp = torch.linspace(0, 1, self.fade_in + (1 if from_zero else 2), device=device)
            weights[: self.fade_in] *= ramp[0 if from_zero else 1 : -1]
        if self.fade_out:
            weights[-self.fade_out :] *= torch.linspace(1, 0, self.fade_out + 2, device=device)[1:-1]
        return weights


class _Blend:
    """Weighted mean of overlapping tiles, summed in float32 because bfloat16 sums would leave seams.

    Tiles are decoded frames or encoded latents; times, rows and columns are counted in those.
    """

    def __init__(self, like: Tensor, channels: int, height: int, width: int) -> None:
        self.dtype = like.dtype
        self.origin = 0
        self.sums = like.new_zeros((like.shape[0], channels, 0, height, width), dtype=torch.float32)
        self.weights = like.new_zeros((0, height, width), dtype=torch.float32)

    def add(self, pieces: Iterable[Tensor], time: Window, row: Window, column: Window) -> None:
        """Add one decoded or encoded tile; its place is a window on each of the three axes.

        ``pieces`` are its consecutive parts along time, (B, C, T, H, W).
        """
        missing = max(0, time.stop - self.origin - len(self.weights))
        self.sums = F.pad(self.sums, (0, 0, 0, 0, 0, missing))
        self.weights = F.pad(self.weights, (0, 0, 0, 0, 0, missing))
        device = self.weights.device
        # The network treats a tile's first frame as the start of a clip, so a later tile's gets no weight.
        along = time.mask(device, from_zero=True)[:, None, None]
        across = row.mask(device)[:, None] * column.mask(device)
        sums = self.sums[:, :, :, row.start : row.stop, column.start : column.stop]
        weights = self.weights[:, row.start : row.stop, column.start : column.stop]
        at = time.start - self.origin
        for piece in pieces:
            length = piece.shape[2]
            mask = along[:length] * across
            sums[:, :, at : at + length] += mask * piece
            weights[at : at + length] += mask
            along, at = along[length:], at + length

    def release(self, until: int) -> Tensor:
        """Return the blended frames (B, C, T, H, W) before frame ``until`` that were not returned yet.

        ``until`` counts frames from the start of the clip (latent frames if latents are blended). All tiles
        with these frames must have been added; the memory of their sums is freed.
        """
        count = until - self.origin
        # Divided by the summed weights, which repairs the borders where a ramp has no neighbour.
        done = (self.sums[:, :, :count] / self.weights[:count]).to(self.dtype)
        self.sums, self.weights, self.origin = (
            # Clones, since views would hold the sums of the finished frames in memory.
            self.sums[:, :, count:].clone(),
            self.weights[count:].clone(),
            until,
        )
        return done


def _windows(
    half: AutoencoderHalf, tiling: Tiling, shape: tuple[int, ...], *, min_overlap: int
) -> tuple[list[Window], list[Window], list[Window]]:
    """The tiles along time, height and width, in latent cells, for a latent of ``shape`` (B, C, f, h, w).

    ``half`` is the encoder or decoder, which has the scale factors. Raises ValueError for tiles off the
    latent grid, or that overlap by less than ``min_overlap`` latent cells.
    """
    time, height, width = (
        _split(size, tile, scale, name, min_overlap)
        for size, tile, scale, name in (
            (shape[2], tiling.frames, half.time_scale, "frames"),
            (shape[3], tiling.height, half.space_scale, "height"),
            (shape[4], tiling.width, half.space_scale, "width"),
        )
    )
    # Later time tiles start one latent earlier, because their first frame is decoded as the start of a clip.
    early = [Window(w.start - 1, w.stop, w.fade_in + 1, w.fade_out) if w.start else w for w in time]
    return early, height, width


def _split(length: int, tile: Tile | None, scale: int, name: str, min_overlap: int) -> list[Window]:
    if tile is None:
        return [Window(0, length, 0, 0)]
    size, overlap = tile
    valid = size % scale == overlap % scale == 0 and min_overlap * scale <= overlap < size
    if size < MIN_CELLS * scale or not valid:
        raise ValueError(
            f"tiles along {name} must have a size of at least {MIN_CELLS * scale} and an overlap from "
            f"{min_overlap * scale} to below the size, multiples of {scale}; got {size} and {overlap}"
        )
    size, overlap = size // scale, overlap // scale
    if length <= size:
        return [Window(0, length, 0, 0)]
    step = size - overlap
    # Equal to (length - overlap) / step, rounded up.
    count = (length + size - 2 * overlap - 1) // step
    return [
        Window(
            i * step,
            min(i * step + size, length),
            overlap if i else 0,
            overlap if i < count - 1 else 0,
        )
        for i in range(count)
    ]
