"""The stages of one pass through the diffusion decoder, as ``run_stages`` calls them.

A clip passes the stages in pieces, a few frames at a time, and the result is the same for any pieces: a stage
caches those frames of its input that its next call needs. A "frame" of a tensor is one step of its time axis,
counted from the start of the clip: a pixel frame in the diffusion stage, several pixel frames in earlier
stages. The stages before the diffusion stage make "features" of the latent; the last
upsampler of the decoder turns these into the "context", one vector for each patch of each pixel frame, which
conditions the blocks that denoise. ``stream`` holds the caches of all stages; ``last`` says that the clip
ends with this piece.

Letters: B batch, T H W time, rows and columns, C channels. ``run_stages`` has time on the third axis, (B, C,
T, H, W); inside of a stage channels come last.
"""

from __future__ import annotations

from torch import Tensor, nn

from ..streaming import Stream
from .blocks import Block, DiffusionBlock
from .context import Context
from .layers import PLAIN, Modulation, Upsample
from .streams import DecoderStream
from .strips import Place
from .windows import Span


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

    If the layer doubles the time axis, it makes two frames of each one. Of the two that come from the clip's
    first frame the first is dropped.
    """

    def __init__(self, layer: Upsample) -> None:
        self.layer = layer

    def __call__(self, x: Tensor, stream: Stream, last: bool) -> Tensor:
        out: Tensor = self.layer(channels_last(x))
        if self.layer.strides[0] == 2 and stream.is_first_call(self):
            out = out[:, 1:]
        return channels_first(out)


class BlockRun:
    """Runs one attention block over a clip that comes in pieces (B, C, T, H, W), consecutive in time.

    A position attends to a window of t x h x w positions. The newest t - 1 frames of the input are
    cached. A frame is computed once the last frame of its window has arrived, the remaining ones at the
    clip's end. ``modulation`` are scales and shifts of the block's normalisations.

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
        arrived = stream.count(self, piece.shape[1])
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
                corner = tile_corner(stream, self.corner)
                self.context.add(out, self.after.context_proj, stream, times, corner)
        if self.frees and self.context is not None:
            self.context.release(stream, times.stop)
        if last:
            stream.take(self)
        else:
            stream.put(self, _newest(past, piece, time - 1))
        return channels_first(out)


def _ready(arrived: int, window: int) -> int:
    """How many frames can be computed: those all of whose attention window has arrived.

    ``arrived`` frames of the clip have arrived so far, and ``window`` frames are one window, centred on the
    frame that attends. The result is 0 before the first window is whole.
    """
    return arrived - window // 2 if arrived >= window else 0


def _newest(past: Tensor | None, piece: Tensor, frames: int) -> Tensor:
    """The newest ``frames`` frames of a block's input: (B, ``frames`` or fewer, H, W, C).

    ``past`` holds earlier frames (None: there are none) and ``piece`` those that follow, both (B, T, H, W,
    C). The result is written into the memory of ``past`` if that has ``frames`` frames already, else it is a
    copy.
    """
    if past is None or past.shape[1] < frames:
        # Of each part only what is cached: both together are larger than all else that a block holds.
        after = piece[:, max(0, piece.shape[1] - frames) :]
        held = 0 if past is None else min(past.shape[1], frames - after.shape[1])
        newest = piece.new_empty((piece.shape[0], held + after.shape[1], *piece.shape[2:]))
        if past is not None and held:
            newest[:, :held] = past[:, past.shape[1] - held :]
        newest[:, held:] = after
        return newest
    fresh = min(frames, piece.shape[1])
    # Frame by frame, since frames that overlap cannot be copied at once, and without a copy in between:
    # nothing here may run out of memory when the cache has already changed.
    for frame in range(frames - fresh):
        past[:, frame].copy_(past[:, frame + fresh])
    past[:, frames - fresh :].copy_(piece[:, piece.shape[1] - fresh :])
    return past


def tile_corner(stream: DecoderStream, taken: tuple[int, int]) -> tuple[int, int]:
    """The (row, column) of a tile at which a stage's result begins.

    ``taken`` is how many (rows, columns) the stages so far do not compute at a side that is a cut through the
    frame; ``stream`` says which sides of the tile are such cuts.
    """
    return stream.cut.top * taken[0], stream.cut.left * taken[1]
