"""Attention keys of a piece of a clip, in memory for one strip of rows at a time.

B batch, T H W time, rows and columns, C channels; tensors are (B, T, H, W, C).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .layers import Attention
from .rope import Rotation
from .windows import Span

CHUNK_BYTES = 8 * 2**20
"""Bytes, roughly, of the part of a block's input whose attention keys one call computes."""


class Place(NamedTuple):
    """Where the piece that a block computes lies in its clip, and which part of the result is asked for.

    A piece is the block's input for a few frames; a frame is one step of the time axis of that input.
    ``past`` (B, P, H, W, C) are the P frames before it, None if the piece begins the clip. ``first`` is the
    number of the first frame of ``past`` (of the piece, if ``past`` is None), ``seen`` how many frames the
    clip has up to the end of the piece. ``out`` are the (frames, rows, columns) asked for. Frames are counted
    from the clip's start, rows and columns from the piece's top left corner.
    """

    past: Tensor | None
    first: int
    seen: int
    out: tuple[Span, Span, Span]


class StripKeys:
    """Keys and values of the image rows to which the rows of one strip attend, for an attention block.

    A block computes its frames strip by strip, a strip being some rows of tokens, from top to bottom. Rows
    that the next strip attends to as well are moved in memory, not computed again. ``attention`` are the
    block's layers of attention, ``reach`` is how many rows a window has in addition to that of its query. The
    keys are those of the piece ``x`` (B, T, H, W, C) and of what ``place`` has before it, normalised by
    ``normed``.
    """

    def __init__(
        self, attention: Attention, reach: int, x: Tensor, place: Place, normed: Callable[[Tensor], Tensor]
    ) -> None:
        self.attention, self.reach, self.x, self.place, self.normed = attention, reach, x, place, normed
        self.times, self.columns = Span(place.first, place.seen), Span(0, x.shape[3])
        self.rows = Span(0, 0)
        spans = (self.times, Span(0, x.shape[2]), self.columns)
        self.rotation = Rotation(spans, attention.head_dim, x.device)
        self._memory: Tensor | None = None
        self._stored: Tensor | None = None

    def stored(self) -> tuple[Tensor, Tensor]:
        """The keys and values of the rows ``self.rows``: each (B, T, rows, W, N, D), contiguous for B = 1."""
        assert self._stored is not None
        keys, values = self._stored
        return keys, values

    def cover(self, rows: Span, step: int) -> None:
        """Make the keys and values of ``rows`` available, by computing those that are not there yet.

        ``rows`` do not begin before the rows of the last call. They are at most ``step`` rows and those that
        the windows around these reach.
        """
        known = Span(rows.start, max(rows.start, self.rows.stop))
        shared = None
        if self._stored is None:
            most = min(self.x.shape[2], step + self.reach)
            self._memory = self.x.new_empty(self._shape(most).numel())
        elif known.size:
            # A copy in between, because both places may overlap.
            shared = self._stored[:, :, :, rows.start - self.rows.start :].clone()
        self.rows = rows
        assert self._memory is not None
        shape = self._shape(rows.size)
        # Kernels want them without gaps, also at borders, where there are fewer rows.
        self._stored = self._memory[: shape.numel()].view(shape)
        if shared is not None:
            self._stored[:, :, :, : known.size] = shared
        chunk = max(1, CHUNK_BYTES // (self.x[:, :1, :1].numel() * self.times.size * self.x.element_size()))
        for start in range(known.stop, rows.stop, chunk):
            self._compute(Span(start, min(start + chunk, rows.stop)))

    def _shape(self, rows: int) -> torch.Size:
        """The shape of keys and values of this many rows: (2, B, T, rows, W, N, D)."""
        width, head = self.attention.width, self.attention.head_dim
        return torch.Size((2, len(self.x), self.times.size, rows, self.columns.size, width // head, head))

    def _compute(self, rows: Span) -> None:
        assert self._stored is not None
        x = window(self.place.past, self.x, rows, self.columns, 0, self.times.size)
        table = self.rotation.box((self.times, rows, self.columns))
        at = slice(rows.start - self.rows.start, rows.stop - self.rows.start)
        k, v = self.attention.keys_and_values(self.normed(x), table)
        self._stored[0, :, :, at] = k
        self._stored[1, :, :, at] = v


def window(past: Tensor | None, x: Tensor, rows: Span, columns: Span, start: int, stop: int) -> Tensor:
    """A copy of a part of ``past`` followed in time by x, both (B, T, H, W, C).

    Takes the frames ``start`` to before ``stop``, counted from the start of ``past`` (of x if
    ``past`` is None), at the rows ``rows`` and the columns ``columns`` of both tensors.
    """
    parts = []
    before = 0 if past is None else past.shape[1]
    if past is not None and start < before:
        parts.append(past[:, start : min(stop, before)])
    if stop > before:
        parts.append(x[:, max(0, start - before) : stop - before])
    return torch.cat([p[:, :, rows.start : rows.stop, columns.start : columns.stop] for p in parts], dim=1)
