"""Exact streaming: frames go through a chain of stages piece by piece, with the result of the whole clip.

Every operation of the autoencoder is pointwise in time or a window of three frames. One that keeps the few
input frames its next output needs therefore computes, however the clip is cut, what it does for the whole.
What is kept lives in a ``Stream``, one per pass: modules hold weights only, and passes may interleave.

B batch, C channels, T frames of a piece, H W rows and columns; tensors are (B, C, T, H, W).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..out_of_memory import is_out_of_memory, release_cached

Remembered = tuple[dict[nn.Module, Tensor], set[nn.Module]]

TAPS = 3
"""Frames that a convolution sees at once."""

MAX_PIECE_BYTES = 128 * 2**20
"""Default size of the largest activation; working memory is a few times this, whatever the clip's length."""


class Stream:
    """What one pass over a clip remembers between pieces.

    ``causal``: convolutions look at the past only. Otherwise they see one frame ahead and lag by one.
    """

    def __init__(self, *, causal: bool) -> None:
        self.causal = causal
        self.centre = TAPS - 1 if causal else TAPS // 2
        self.parts = 1
        """Pieces are this many times smaller than asked for, since memory has run out."""
        self._kept: dict[nn.Module, Tensor] = {}
        self._seen: set[nn.Module] = set()

    def keep(self, owner: nn.Module, frames: Tensor) -> None:
        """Hold a copy of ``frames`` for the owner's next call, so that the piece they lie in can be freed."""
        if frames.shape[2]:
            self._kept[owner] = frames.clone()

    def recall(self, owner: nn.Module) -> Tensor | None:
        """Hand back, once, what the owner kept; None if that was nothing."""
        return self._kept.pop(owner, None)

    def once(self, owner: nn.Module) -> bool:
        """True on the owner's first call, then False."""
        first = owner not in self._seen
        self._seen.add(owner)
        return first

    def remembered(self) -> Remembered:
        """What is kept now, for :meth:`restore`."""
        return dict(self._kept), set(self._seen)

    def restore(self, remembered: Remembered) -> None:
        """Forget everything since ``remembered``, so that a stage can take its piece again."""
        self._kept, self._seen = remembered

    def move(self, device: torch.device) -> None:
        """Bring everything that is kept to ``device``."""
        self._kept = {owner: frames.to(device) for owner, frames in self._kept.items()}

    def window(self, owner: nn.Module, x: Tensor, last: bool) -> Tensor:
        """All frames that the convolution's next outputs need: those before ``x``, ``x``, and one at the end.

        x (B, C, T, H, W) -> (B, C, T', H, W), of which the convolution makes T' - 2 frames: the window's from
        ``self.centre`` on. The clip's first and last frames are repeated.
        """
        before = self.recall(owner)
        if before is None:
            before = x[:, :, :1].repeat(1, 1, self.centre, 1, 1)
        parts = [before, x]
        if last and not self.causal:
            parts.append((x if x.shape[2] else before)[:, :, -1:])
        window = torch.cat(parts, dim=2)
        if not last:
            self.keep(owner, window[:, :, 1 - TAPS :])
        return window


class Stage(NamedTuple):
    """One link of the chain; ``growth``, at least 1, is the size of its result over that of its input."""

    run: Callable[[Tensor, Stream, bool], Tensor]
    growth: float = 1.0


def run_stages(
    stages: Sequence[Stage], x: Tensor, stream: Stream, last: bool, max_piece_bytes: int
) -> Iterator[Tensor]:
    """Take ``x`` through the stages depth first: each piece reaches the end before the next one starts.

    ``last`` says that the clip ends with ``x``; stages then release what lags behind. Since that too is cut
    into pieces before the next stage, memory stays bounded to the end. A stage for whose piece there is not
    enough memory takes it again in halves, and pieces stay so small for the rest of the clip.
    """
    if x.shape[2] == 0:
        return
    if not stages:
        yield x
        return
    head, *tail = stages
    # Counting the growth to come keeps what the early stages release at the end of the clip small, too.
    frame_bytes = x[:, :, :1].numel() * x.element_size() * prod(stage.growth for stage in stages)
    pieces = deque([x])
    # No name may hold a piece while later stages run, or every level of the chain would keep one alive.
    del x
    while pieces:
        _cut(pieces, max(1, int(max_piece_bytes / stream.parts / frame_bytes)))
        ends = last and len(pieces) == 1
        result = _attempt(head, pieces, stream, ends)
        if result is None:
            stream.parts *= 2
            _cut(pieces, (pieces[0].shape[2] + 1) // 2)
            continue
        made = [result]
        del result
        yield from run_stages(tail, made.pop(), stream, ends, max_piece_bytes)


def _cut(pieces: deque[Tensor], frames: int) -> None:
    """Let the first of ``pieces`` have at most ``frames``."""
    if pieces[0].shape[2] > frames:
        whole = pieces.popleft()
        pieces.extendleft((whole[:, :, frames:], whole[:, :, :frames]))


def _attempt(stage: Stage, pieces: deque[Tensor], stream: Stream, last: bool) -> Tensor | None:
    """What ``stage`` makes of the first piece, which is then gone; None if memory ran out and a smaller one
    may do, with everything as it was.
    """
    if pieces[0].shape[2] == 1:
        return stage.run(pieces.popleft(), stream, last)
    before = stream.remembered()
    try:
        made = stage.run(pieces[0], stream, last)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        stream.restore(before)
    else:
        pieces.popleft()
        return made
    # The error is gone here, and with it the tensors that its traceback held.
    release_cached()
    return None


def mark_last(chunks: Iterable[Tensor]) -> Iterator[tuple[Tensor, bool]]:
    """Pair every chunk that has frames with whether the clip ends with it; one chunk is read ahead.

    Raises ValueError if there is none, or if two differ in more than their length.
    """
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
        raise ValueError("the clip has no frames; give at least one")
    yield held, True


def collect(pieces: Iterable[Tensor], length: int) -> Tensor:
    """Lay pieces that come to ``length`` frames into one tensor, without ever holding both."""
    whole: Tensor | None = None
    filled = 0
    for piece in pieces:
        if piece.shape[2] == length:
            return piece
        if whole is None:
            whole = piece.new_empty((*piece.shape[:2], length, *piece.shape[3:]))
        whole[:, :, filled : filled + piece.shape[2]] = piece
        filled += piece.shape[2]
    assert whole is not None and filled == length
    return whole
