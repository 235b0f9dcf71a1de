"""Exact streaming: a clip passes through a chain of stages in pieces, with the result of the whole clip.

Every operation of the autoencoder is pointwise in time or sees a window of three frames. If it caches the few
input frames that its next output needs, its result does not depend on how the clip is cut into pieces. The
caches are in a ``Stream``, one for each pass over a clip. Modules hold weights only, so that passes over
several clips may alternate.

A "frame" of a tensor is here one step of its time axis, whatever time it stands for: one pixel frame at the
side of the pixels, up to eight inside of the network and in the latent. B batch, C channels, T frames of a
piece, H W rows and columns; tensors are (B, C, T, H, W).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..out_of_memory import is_out_of_memory, release_cached

if TYPE_CHECKING:
    from .windows import Windows

TAPS = 3
"""Kernel size of every convolution in time."""

MAX_PIECE_BYTES = 128 * 2**20
"""Default limit for one activation. Working memory is a few times this, for clips of any length."""


@dataclass(frozen=True, eq=False)
class Conditions:
    """What one module of a conditioned decoder (LTX-Video) computes with in addition to the clip.

    ``shifts`` and ``scales`` (1, C, 1, 1, 1) modulate the normalised input of each of its convolutions, C
    being the number of channels; the scales are differences from 1. ``planes`` (H, W) are the noise that is
    added to the result of each convolution, the same for all frames; empty without noise.
    """

    shifts: tuple[Tensor, ...] = ()
    scales: tuple[Tensor, ...] = ()
    planes: tuple[Tensor, ...] = ()


class Raw(NamedTuple):
    """What a window was made of: ``parts`` (B, C, T, H, W) in order, the first one repeated ``before`` times.

    More precisely, it is the first frame of the first part that is repeated.
    """

    parts: tuple[Tensor, ...]
    before: int

    def frames(self, start: int, stop: int) -> Iterator[tuple[int, Tensor]]:
        """Frames ``start`` to ``stop`` (exclusive) of the window as views (B, C, T, H, W) of the parts.

        Each comes with the number of frames from ``start`` to it. Repeated frames are not among them.
        """
        begin = self.before
        for part in self.parts:
            first, end = max(start, begin), min(stop, begin + part.shape[2])
            if first < end:
                yield first - start, part[:, :, first - begin : end - begin]
            begin += part.shape[2]


class Stream:
    """What the modules of a network cache between the pieces of a clip, in one pass over that clip.

    Each module that sees several frames (steps of the time axis of its input) at once caches the last frames
    of its input here, under the module itself as the key, which methods call the owner. If ``causal``,
    convolutions use past frames only. Otherwise they also use one later frame, so that their output lags one
    frame behind their input.
    """

    def __init__(self, *, causal: bool) -> None:
        self.causal = causal
        self.centre = TAPS - 1 if causal else TAPS // 2
        self.parts = 1
        """Divisor of the size of pieces; it doubles whenever memory runs out."""
        self.conditions: Mapping[object, Conditions] = {}
        """What each module computes with in addition to the clip, by module; the same for all pieces."""
        self.windows: Windows | None = None
        """What makes the windows of convolutions by kernels; None if plain operations do."""
        self._cached: dict[object, Tensor] = {}
        self._called: set[object] = set()

    def cache(self, owner: object, frames: Tensor) -> None:
        """Store ``frames`` (B, C, T, H, W) for the next call of the module ``owner``.

        With T = 0 nothing is stored.
        """
        if frames.shape[2]:
            # A copy, because a view would hold the whole piece in memory.
            self._cached[owner] = frames.clone()

    def take(self, owner: object) -> Tensor | None:
        """Remove and return the frames (B, C, T, H, W) cached for the module ``owner``.

        None if there are none.
        """
        return self._cached.pop(owner, None)

    def is_first_call(self, owner: object) -> bool:
        """Whether this method is called for the module ``owner`` for the first time in this pass."""
        first = owner not in self._called
        self._called.add(owner)
        return first

    def snapshot(self) -> dict[str, object]:
        """The state of all caches at this moment, to be passed to :meth:`restore`."""
        # Copies of the containers, not of the tensors in them, which no stage changes before it may fail.
        return {k: v.copy() if isinstance(v, dict | set) else v for k, v in vars(self).items()}

    def restore(self, snapshot: dict[str, object]) -> None:
        """Undo all changes since ``snapshot``, so that a stage can run on the same piece again."""
        vars(self).update(snapshot)

    def move(self, device: torch.device) -> None:
        """Move all cached frames to ``device``."""
        self._cached = {owner: frames.to(device) for owner, frames in self._cached.items()}

    def window(self, owner: object, x: Tensor, last: bool) -> Tensor:
        """The input of a convolution: its cached frames, then ``x``, then padding at the end of the clip.

        x (B, C, T, H, W) -> (B, C, T', H, W), from which the convolution ``owner`` computes T' - 2 output
        frames. The first output frame stands for the same time as frame number ``self.centre`` (from 0) of
        the result. ``last`` says that ``x`` ends the clip. Before the clip's first frame that frame is
        repeated, and after the last one, if the convolution looks ahead, the last.
        """
        before = self.take(owner)
        if before is None:
            # Repeated frames and not zeros, which pad space alone: the networks were trained so.
            before = x[:, :, :1].repeat(1, 1, self.centre, 1, 1)
        parts = [before, x]
        if last and not self.causal:
            parts.append((x if x.shape[2] else before)[:, :, -1:])
        window = torch.cat(parts, dim=2)
        if not last:
            # Two frames are all that a kernel of three needs of the past.
            self.cache(owner, window[:, :, 1 - TAPS :])
        return window

    def made_window(
        self, owner: object, x: Tensor, last: bool, *, reflect: bool, eps: float | None
    ) -> tuple[Tensor, Raw]:
        """Like :meth:`window`, made by ``windows``, at once with the reflection and the norm of its ``make``.

        Returns the window and what it was made of. The frames cached are raw, without the norm.
        """
        assert self.windows is not None
        kept = self.take(owner)
        raw = Raw((x,) if kept is None else (kept, x), self.centre if kept is None else 0)
        if kept is not None and not x.shape[2]:
            x, kept = kept, None
        if not x.shape[2]:
            return x, raw
        window, held = self.windows.make(
            x,
            kept,
            raw.before,
            int(last and not self.causal),
            keep=0 if last else TAPS - 1,
            reflect=reflect,
            eps=eps,
        )
        if not last:
            self._cached[owner] = held
        return window, raw


class Stage(NamedTuple):
    """One step of the chain, called as ``run(x, stream, last)``.

    ``x`` is the next piece, ``stream`` holds the caches, and ``last`` is True for the last piece of the clip.
    ``growth`` is the size of the result over the size of ``x``, but at least 1. ``lag`` is by how many frames
    the result is behind the input; the last piece returns that many frames more.
    """

    run: Callable[[Tensor, Stream, bool], Tensor]
    growth: float = 1.0
    lag: int = 0


def run_stages(
    stages: Sequence[Stage], x: Tensor, stream: Stream, last: bool, max_piece_bytes: int
) -> Iterator[Tensor]:
    """Run ``x`` (B, C, T, H, W) through all stages in pieces, depth first; yields the results in order.

    Each piece reaches the last stage before the next one starts. ``last`` is True if ``x`` ends the clip;
    stages then also output the frames by which they lag behind. Every stage cuts its own input into pieces,
    so that its results stay below ``max_piece_bytes``, and without ``stream.windows`` those of all later
    stages too. If memory runs out, the stage runs again on half of its piece, and pieces stay that small for
    the rest of the clip.
    """
    if x.shape[2] == 0:
        return
    if not stages:
        yield x
        return
    head, *tail = stages
    # The growth of all later stages counts, so that frames released at the end of the clip stay small too.
    # Kernels need no copy of a window: within the same memory pieces may be longer, of which convolutions
    # read and write fewer frames twice.
    growth = head.growth if stream.windows is not None else prod(stage.growth for stage in stages)
    frame_bytes = x[:, :, :1].numel() * x.element_size() * growth
    pieces = deque([x])
    # No local name may refer to a piece while later stages run, or every stage would hold one in memory.
    del x
    while pieces:
        # At least one frame, whatever it takes: time cannot be cut further, and only spatial tiles make it
        # smaller.
        frames = max(1, int(max_piece_bytes / stream.parts / frame_bytes))
        _cut(pieces, frames)
        if last and len(pieces) == 1 and head.lag:
            # The frames by which the stage lags come too.
            _cut(pieces, max(1, frames - head.lag))
        ends = last and len(pieces) == 1
        result = _attempt(head, pieces, stream, ends)
        if result is None:
            # The same piece once more, which is exact to the bit: pieces of another size may round otherwise.
            result = _attempt(head, pieces, stream, ends)
        if result is None:
            stream.parts *= 2
            _cut(pieces, (pieces[0].shape[2] + 1) // 2)
            continue
        results = [result]
        del result
        # Popped within the call, so that no name here holds the result while later stages run.
        yield from run_stages(tail, results.pop(), stream, ends, max_piece_bytes)


def _cut(pieces: deque[Tensor], frames: int) -> None:
    """If the first of ``pieces`` has more than ``frames`` frames, split it in two after that many."""
    if pieces[0].shape[2] > frames:
        whole = pieces.popleft()
        pieces.extendleft((whole[:, :, frames:], whole[:, :, :frames]))


def _attempt(stage: Stage, pieces: deque[Tensor], stream: Stream, last: bool) -> Tensor | None:
    """Run ``stage`` on the first of ``pieces`` and remove that piece.

    ``last`` says that ``pieces`` end the clip. Returns None if memory ran out, with pieces and stream
    unchanged, so that a smaller piece can be tried. Raises the out-of-memory error if the piece has only one
    frame.
    """
    # A single frame cannot be cut further, so that its error is passed on. It is not held either: where it is
    # that large, its memory is needed.
    if pieces[0].shape[2] == 1:
        return stage.run(pieces.popleft(), stream, last)
    before = stream.snapshot()
    try:
        result = stage.run(pieces[0], stream, last)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        stream.restore(before)
    else:
        pieces.popleft()
        return result
    # Outside of the except block the traceback is gone, and with it the tensors that it referred to.
    release_cached()
    return None


def mark_last(chunks: Iterable[Tensor]) -> Iterator[tuple[Tensor, bool]]:
    """Yield every chunk that has frames, with True for the last one; one chunk is read ahead for that.

    Raises ValueError if no chunk has frames, or if two chunks differ in more than the number of frames.
    """
    # A generator does not say in advance that a chunk is the last one, and the stages have to flush in the
    # same call.
    held: Tensor | None = None
    for chunk in chunks:
        if held is not None and (chunk.shape[:2], chunk.shape[3:]) != (held.shape[:2], held.shape[3:]):
            raise ValueError(
                "chunks of one clip may differ in length only (axis 2); "
                f"got {tuple(held.shape)}, then {tuple(chunk.shape)}"
            )
        if chunk.ndim == 5 and chunk.shape[2] == 0:
            continue
        if held is not None:
            yield held, False
        held = chunk
    if held is None:
        raise ValueError("the clip has no frames; at least one is needed")
    yield held, True


def collect(pieces: Iterable[Tensor], length: int) -> Tensor:
    """Join pieces (B, C, T, H, W), ``length`` frames in total, into one tensor.

    Only one piece at a time is in memory, in addition to the result.
    """
    whole: Tensor | None = None
    filled = 0
    for piece in pieces:
        # A clip of one piece is returned as it is, without a copy.
        if piece.shape[2] == length:
            return piece
        if whole is None:
            whole = piece.new_empty((*piece.shape[:2], length, *piece.shape[3:]))
        whole[:, :, filled : filled + piece.shape[2]] = piece
        filled += piece.shape[2]
    assert whole is not None
    assert filled == length
    return whole
