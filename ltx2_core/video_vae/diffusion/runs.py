"""The stages of one pass through the diffusion decoder, as ``run_stages`` calls them.

A clip passes the stages in pieces, a few steps along the time axis at a time, and the result is the same for
any pieces: a stage caches those steps of its input that its next call needs. A "position in time" is an index
on the time axis of a stage's input, 0 at the start of the clip: a pixel frame in the diffusion stage, several
pixel frames in earlier stages. The stages before the diffusion stage make "features" of the latent; the last
upsampler of the decoder turns these into the "context", one vector for each patch of each pixel frame, which
conditions the blocks that denoise. ``stream`` holds the caches of all stages; ``last`` says that the clip
ends with this piece.

Letters: B batch, T H W time, rows and columns, C channels. ``run_stages`` has time on the third axis, (B, C,
T, H, W); inside of a stage channels come last.
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
"""Bytes, roughly, of the part of the diffusion stage's conditioning features that is computed at a time."""


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
    """Runs an upsampling layer over the pieces of a clip: (B, C, T, H, W), larger in time, rows and columns.

    If the layer doubles the time axis, it makes two steps in time of each one. Of the two that come from the
    clip's first step the first is dropped.
    """

    def __init__(self, layer: Upsample) -> None:
        self.layer = layer

    def __call__(self, x: Tensor, stream: Stream, last: bool) -> Tensor:
        out: Tensor = self.layer(channels_last(x))
        if self.layer.strides[0] == 2 and stream.is_first_call(self):
            out = out[:, 1:]
        return channels_first(out)


class Context:
    """The context: the features that condition the diffusion stage, one vector for each patch of a frame.

    It is the result of the decoder's last upsampler, ``upsample``, and has one step in time for each pixel
    frame. It is never stored: whatever reads a part of it computes that part from the upsampler's input,
    which is a quarter of its size and is held in a :class:`.streams.DecoderStream`, the caches of one decode.
    The blocks of the diffusion stage read parts up to 40 frames apart. Frames are counted from the start of
    the clip; rows and columns are those of patches, counted from the top left corner of the tile that is
    decoded.
    """

    def __init__(self, upsample: Upsample) -> None:
        self.upsample = upsample

    def span(self, features: Span) -> Span:
        """The pixel frames whose context the upsampler makes of the indices ``features`` of its input.

        The context, which the upsampler makes, is what conditions denoising: features with one step in time
        for each pixel frame. ``features`` are indices on the time axis of the upsampler's input, the result
        holds numbers of pixel frames. Both count from the start of the clip; ``stop`` is exclusive.
        """
        stride = self.upsample.strides[0]
        # The first of the rows of a clip's first features is dropped, so all others are one earlier.
        dropped = stride - 1
        return Span(max(0, stride * features.start - dropped), stride * features.stop - dropped)

    def add(
        self, out: Tensor, projection: nn.Module, stream: DecoderStream, times: Span, corner: tuple[int, int]
    ) -> None:
        """Compute the conditioning features of some patches, project them, and add that to ``out``, in place.

        ``out`` (B, T, H, W, C) has one vector for each patch of the pixel frames ``times``, which are counted
        from the start of the clip. Its first row and column are the (row, column) ``corner`` of the tile, in
        patches. ``projection`` is a linear layer. ``stream`` holds the input of the upsampler that makes the
        features.
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
        """Free the upsampler's input for pixel frames before number ``row``, whose context is not read again.

        ``row`` counts pixel frames from the start of the clip (no image row is meant). ``stream``, the caches
        of this decode, holds the input of the upsampler, from which the context (what conditions denoising)
        is computed; what frame ``row`` and later ones need stays there.
        """
        stride = self.upsample.strides[0]
        stream.release(self, (row + stride - 1) // stride)


def _cells(span: Span, stride: int) -> tuple[Span, int]:
    """Which cells cover the positions ``span`` of one axis, if the axis is divided into cells of ``stride``.

    Returns the numbers of these cells, from 0, and how many positions of the first one lie before ``span``.
    """
    first = span.start // stride
    return Span(first, -(-span.stop // stride)), span.start - first * stride


class NoiseRun:
    """Draws the noise of the pixel frames that the next piece decodes to, cut into patches.

    The piece comes in as features (B, C, t, h, w), the input of the decoder's last upsampler. They are kept
    in the stream under the key ``context``, from which later stages compute the context (the vectors that
    condition denoising). The noise (B, values of a patch, T, H, W) goes out: T pixel frames of H W patches.
    """

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
    """Begins a denoising step: turns patches of noised frames into the input of the first diffusion block.

    ``layer`` projects the patches, and the conditioning features that the first block ``block`` reads are
    added; ``context`` holds these features for the whole frame or tile. ``corner`` is how many (rows,
    columns) of patches earlier denoising steps took off the top and left side of a tile that is cut out of
    the frame there: the patches begin that far inside ``context``. With ``keep`` the noised patches are
    stored for :class:`LeaveRun`, which ends the step. With ``frees`` the features of these frames are freed
    afterwards; set it where no later step reads them.
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
    """Runs one attention block over a clip that comes in pieces (B, C, T, H, W), consecutive in time.

    A position attends to a window of t x h x w positions. The newest t - 1 steps in time of the input are
    cached. A step is computed once the last step of its window has arrived, the remaining ones at the clip's
    end. ``modulation`` are scales and shifts of the block's normalisations.

    For denoising, ``after`` is the next block: the part of the conditioning features (``context``) that it
    reads is added to the result; None adds none. ``corner`` is how many (rows, columns) of patches the result
    lacks at each side where the tile is cut out of the frame: a block computes no patch whose window crosses
    such a side. ``frees`` frees the conditioning features of these frames afterwards; set it where no later
    stage reads them.
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
    """How many steps in time can be computed: those all of whose attention window has arrived.

    ``arrived`` steps of the clip have arrived so far, and ``window`` steps are one window, centred on the
    step that attends. The result is 0 before the first window is whole.
    """
    return arrived - window // 2 if arrived >= window else 0


def _newest(past: Tensor | None, piece: Tensor, rows: int) -> Tensor:
    """The newest ``rows`` steps in time of a block's input: (B, ``rows`` or fewer, H, W, C).

    ``past`` holds earlier steps (None: there are none) and ``piece`` those that follow, both (B, T, H, W, C).
    The result is written into the memory of ``past`` if that has ``rows`` steps already, else it is a copy.
    """
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
    """Ends a denoising step: turns the last block's result into the next step's patches, at last into frames.

    ``norm`` and ``layer`` project the result to patches. ``step`` is the diffusion time (1 pure noise, 0
    clean) of this step and of the next one. ``velocity`` says that the network predicts velocities, not clean
    patches. ``entered`` is the stage that began this step, under which the stream holds its noised patches.
    ``taken`` is how many (rows, columns) of patches the blocks of this step do not compute at each side where
    a tile is cut out of the frame, since windows there cross the side.
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
        """One Euler step of denoising, computed in float32.

        ``predicted`` (B, T, H, W, C) is what the network predicts for the patches of the pixel frames
        ``times``, counted from the start of the clip. It is applied to the noised patches that ``stream``
        holds, which are then freed. Returns the less noised patches, of the shape of ``predicted``.
        """
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
    """For each of ``steps`` denoising steps the pair of its diffusion time and of that of the next step.

    The times fall evenly from 1 (pure noise); after the last step comes 0.
    """
    times = torch.linspace(1, 1 / steps, steps, dtype=torch.float32).tolist()
    return list(pairwise([*times, 0.0]))
