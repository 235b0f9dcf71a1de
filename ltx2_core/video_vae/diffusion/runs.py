"""The stages of one pass through the diffusion decoder, as ``run_stages`` calls them.

Each is exact for any pieces: it caches the rows in time that its next call needs. Letters: B batch, T H W
time, rows and columns, C channels. ``run_stages`` has time on the third axis, (B, C, T, H, W); inside of a
stage channels come last.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from ..layers import patchify, unpatchify
from ..streaming import Stream
from .layers import PLAIN, Block, DiffusionBlock, Modulation, Norm, Place, Upsample
from .streams import DecoderStream
from .windows import Span

STRIP_BYTES = 16 * 2**20
"""About the size of the context that is computed at a time."""


def channels_last(x: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B, T, H, W, C), a view."""
    return x.permute(0, 2, 3, 4, 1)


def channels_first(x: Tensor) -> Tensor:
    """(B, T, H, W, C) -> (B, C, T, H, W), a view."""
    return x.permute(0, 4, 1, 2, 3)


class LinearRun:
    """A linear layer over the channels of each position."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer

    def __call__(self, x: Tensor, stream: Stream, last: bool) -> Tensor:
        return channels_first(self.layer(channels_last(x)))


class UpsampleRun:
    """An upsampler; the first of the two rows in time that it makes of a clip's first row is dropped."""

    def __init__(self, layer: Upsample) -> None:
        self.layer = layer

    def __call__(self, x: Tensor, stream: Stream, last: bool) -> Tensor:
        out: Tensor = self.layer(channels_last(x))
        if self.layer.strides[0] == 2 and stream.is_first_call(self):
            out = out[:, 1:]
        return channels_first(out)


class Context:
    """The context of the diffusion stage, computed from the rows before its upsampler wherever it is read.

    Those rows are a quarter of the context, and blocks read up to 40 rows apart from each other. Positions of
    rows and columns are those of the tile.
    """

    def __init__(self, upsample: Upsample) -> None:
        self.upsample = upsample

    def span(self, features: Span) -> Span:
        """The rows in time of the context that come from these rows of features."""
        stride = self.upsample.strides[0]
        # The first of the rows of a clip's first features is dropped, so all others are one earlier.
        dropped = stride - 1
        return Span(max(0, stride * features.start - dropped), stride * features.stop - dropped)

    def add(
        self, out: Tensor, projection: nn.Module, stream: DecoderStream, times: Span, corner: tuple[int, int]
    ) -> None:
        """Add the projected context to ``out`` (B, T, H, W, C), in place.

        ``times`` are the rows in time of ``out``, ``corner`` the row and column of the tile where it begins.
        """
        stride = self.upsample.strides
        dropped = stride[0] - 1
        features, first = _cells(Span(times.start + dropped, times.stop + dropped), stride[0])
        held = stream.held[self].rows(features)
        columns, left = _cells(Span(corner[1], corner[1] + out.shape[3]), stride[2])
        step = max(2, STRIP_BYTES // max(1, out[:, :, :1].numel() * out.element_size()) // 2 * 2)
        for top in range(0, out.shape[2], step):
            strip = out[:, :, top : top + step]
            rows, above = _cells(Span(corner[0] + top, corner[0] + top + strip.shape[2]), stride[1])
            context = self.upsample(held[:, :, rows.start : rows.stop, columns.start : columns.stop])[
                :, first : first + times.size, above : above + strip.shape[2], left : left + out.shape[3]
            ]
            strip += projection(context)

    def release(self, stream: DecoderStream, row: int) -> None:
        """Free the features that no row of the context from ``row`` on needs."""
        stride = self.upsample.strides[0]
        stream.release(self, (row + stride - 1) // stride)


def _cells(span: Span, stride: int) -> tuple[Span, int]:
    """The cells of ``stride`` positions that cover ``span``, and where in them it begins."""
    first = span.start // stride
    return Span(first, -(-span.stop // stride)), span.start - first * stride


class NoiseRun:
    """From rows of features to the patches of noise (B, patches, T, H, W) of the rows that they stand for."""

    def __init__(self, context: Context, patch_size: int) -> None:
        self.context = context
        self.patch_size = patch_size

    def __call__(self, x: Tensor, stream: Stream, last: bool) -> Tensor:
        assert isinstance(stream, DecoderStream)
        features = channels_last(x)
        times = self.context.span(stream.pass_rows(self, features.shape[1]))
        size = self.patch_size
        rows, columns = (
            Span(size * first, size * (first + cells * stride))
            for first, cells, stride in zip(
                stream.origin, features.shape[2:4], self.context.upsample.strides[1:], strict=True
            )
        )
        noise = stream.clip.noise.box(stream.clip.size, times, rows, columns, x)
        stream.hold(self.context, features)
        return patchify(noise, size)


class EnterRun:
    """From patches of noised frames to the input of the first diffusion block, which has its context added.

    ``corner`` counts the rows and columns that earlier steps took off each cut side of a tile. With ``keep``
    patches are held for the end of this step.
    """

    def __init__(
        self,
        layer: nn.Module,
        block: DiffusionBlock,
        context: Context,
        *,
        corner: tuple[int, int],
        keep: bool,
        frees: bool,
    ) -> None:
        self.layer, self.block, self.context = layer, block, context
        self.corner, self.keep, self.frees = corner, keep, frees

    def __call__(self, x: Tensor, stream: Stream, last: bool) -> Tensor:
        assert isinstance(stream, DecoderStream)
        patches = channels_last(x)
        times = stream.pass_rows(self, patches.shape[1])
        out: Tensor = self.layer(patches)
        corner = _corner(stream, self.corner)
        self.context.add(out, self.block.context_proj, stream, times, corner)
        if self.keep:
            stream.hold(self, patches)
        if self.frees:
            self.context.release(stream, times.stop)
        return channels_first(out)


class BlockRun:
    """A block over the pieces of a clip.

    It caches as many rows in time as its window has, less one. A row leaves once the last row of its window
    has arrived; the first rows wait for a whole window, and the last ones leave with the clip's end. With
    ``after``, the context of that next block is added to the result.
    """

    def __init__(
        self,
        block: Block,
        *,
        modulation: Modulation = PLAIN,
        context: Context | None = None,
        after: DiffusionBlock | None = None,
        corner: tuple[int, int] = (0, 0),
        frees: bool = False,
    ) -> None:
        self.block, self.modulation = block, modulation
        self.context, self.after, self.corner, self.frees = context, after, corner, frees

    def __call__(self, x: Tensor, stream: Stream, last: bool) -> Tensor:
        assert isinstance(stream, DecoderStream)
        piece = channels_last(x)
        time, height, width = self.block.kernel
        arrived = stream.pass_rows(self, piece.shape[1])
        past = stream.peek(self)
        sides = stream.cut.inner(piece.shape[2], piece.shape[3], (height // 2, width // 2))
        times = Span(_ready(arrived.start, time), arrived.stop if last else _ready(arrived.stop, time))
        if times.size == 0:
            out = piece.new_empty((piece.shape[0], 0, sides[0].size, sides[1].size, piece.shape[-1]))
        else:
            first = arrived.start - (0 if past is None else past.shape[1])
            place = Place(past, first, arrived.stop, (times, *sides))
            out = self.block.compute(piece, place, stream.clip.masks, self.modulation)
            if self.after is not None:
                assert self.context is not None
                corner = _corner(stream, self.corner)
                self.context.add(out, self.after.context_proj, stream, times, corner)
        if self.frees and self.context is not None:
            self.context.release(stream, times.stop)
        if last:
            stream.take(self)
        else:
            stream.put(self, _newest(past, piece, time - 1))
        return channels_first(out)


def _ready(arrived: int, window: int) -> int:
    """How many rows have all rows of their windows, where ``arrived`` rows have arrived."""
    return arrived - window // 2 if arrived >= window else 0


def _newest(past: Tensor | None, piece: Tensor, rows: int) -> Tensor:
    """The last ``rows`` rows in time of ``past`` and ``piece``, in the memory of ``past`` if it is full."""
    if past is None or past.shape[1] < rows:
        whole = piece if past is None else torch.cat((past, piece), dim=1)
        return whole[:, max(0, whole.shape[1] - rows) :].clone(memory_format=torch.contiguous_format)
    fresh = min(rows, piece.shape[1])
    # Row by row, since rows that overlap cannot be copied at once, and without a copy in between: nothing
    # here may run out of memory when the cache has already changed.
    for row in range(rows - fresh):
        past[:, row].copy_(past[:, row + fresh])
    past[:, rows - fresh :].copy_(piece[:, piece.shape[1] - fresh :])
    return past


class LeaveRun:
    """From the last block's result to the patches of the next step, or to frames after the last step.

    ``step`` is the diffusion time of this step and of the next one, ``entered`` the stage that holds the
    patches of this step. ``taken`` counts the rows and columns that this step took off each cut side.
    """

    def __init__(
        self,
        norm: Norm,
        layer: nn.Module,
        *,
        step: tuple[float, float],
        velocity: bool,
        entered: EnterRun,
        taken: tuple[int, int],
        patch_size: int,
    ) -> None:
        self.norm, self.layer, self.entered, self.taken = norm, layer, entered, taken
        self.step, self.velocity, self.patch_size = step, velocity, patch_size

    def __call__(self, x: Tensor, stream: Stream, last: bool) -> Tensor:
        assert isinstance(stream, DecoderStream)
        rows = channels_last(x)
        # Row by row, so that the normalised rows do not exist all at once.
        patches = torch.cat([self.layer(self.norm(row)) for row in rows.split(1, dim=1)], dim=1)
        if self.entered.keep:
            times = stream.pass_rows(self, patches.shape[1])
            patches = self._advanced(patches, stream, times)
        out = channels_first(patches)
        return unpatchify(out, self.patch_size) if self.step[1] == 0 else out

    def _advanced(self, predicted: Tensor, stream: DecoderStream, times: Span) -> Tensor:
        """One Euler step from the patches of this step, computed in float32."""
        held = stream.held[self.entered].rows(times)
        rows, columns = stream.cut.inner(held.shape[2], held.shape[3], self.taken)
        noised = held[:, :, rows.start : rows.stop, columns.start : columns.stop].float()
        now, later = self.step
        velocity = predicted.float() if self.velocity else (noised - predicted.float()) / now
        stream.release(self.entered, times.stop)
        if later == 0 and not self.velocity:
            return predicted
        return (noised + (later - now) * velocity).to(predicted.dtype)


def _corner(stream: DecoderStream, taken: tuple[int, int]) -> tuple[int, int]:
    return stream.cut.top * taken[0], stream.cut.left * taken[1]


def diffusion_times(steps: int) -> list[tuple[float, float]]:
    """The diffusion time of each of ``steps`` steps and of the one after it, from 1 down to 0."""
    times = torch.linspace(1, 1 / steps, steps, dtype=torch.float32).tolist()
    return list(pairwise([*times, 0.0]))
