"""The windows of neighbourhood attention along one axis, and how queries are cut into tiles that share them.

A query at position i of an axis of n positions attends to exactly K positions, from ``clamp(i - K // 2, 0,
n - K)`` on: at the borders the window is shifted inward, neither cut nor padded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple, TypeAlias

import torch
from einops import rearrange
from torch import Tensor


class Span(NamedTuple):
    """The positions of one axis from ``start`` to before ``stop``."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis of an attention: which positions are queries, and which are keys.

    Positions are indices on the axis (time, rows or columns), 0 at its beginning, even if its first keys are
    no longer in memory. ``queries`` are the positions that attend, ``first_key`` is the position of the first
    key in memory, ``length`` the number of all positions, ``window`` how many of them each query attends to.
    """

    queries: Span
    first_key: int
    length: int
    window: int

    def start(self, query: int) -> int:
        """Index, among the keys in memory, of the first key that the position ``query`` attends to."""
        return window_start(query, self.length, self.window) - self.first_key

    def runs(self, size: int) -> list[Run]:
        """Cut the queries into tiles of ``size`` positions, and join neighbours of one geometry to runs.

        Tiles have one geometry if they need the same mask.
        """
        runs: list[Run] = []
        for first in range(*self.queries, size):
            stop = min(first + size, self.queries.stop)
            begin = self.start(first)
            offsets = tuple(self.start(query) - begin for query in range(first, stop))
            run = Run(
                query=first - self.queries.start,
                key=begin,
                size=stop - first,
                box=offsets[-1] + self.window,
                tiles=1,
                geometry=(offsets, self.window),
            )
            if runs and runs[-1].goes_on_with(run):
                run = runs.pop().and_one_more()
            runs.append(run)
        return runs


Axes: TypeAlias = tuple[Axis, Axis, Axis]
"""Time, rows and columns of an attention."""
Attend: TypeAlias = Callable[[Tensor, Tensor, Tensor, Axes], Tensor]
"""A function like :func:`.attention.neighbourhood_attention`, of q, k, v and axes."""


class Run(NamedTuple):
    """Neighbouring tiles of queries along one axis, with the same mask, and the keys that they attend to.

    ``tiles`` tiles of ``size`` queries begin at ``query``. The keys of the first one are the ``box``
    positions from ``key`` on, those of the next one begin ``size`` further. ``geometry`` is the first key of
    each query of a tile, counted from the tile's first key, and the size of the window.
    """

    query: int
    key: int
    size: int
    box: int
    tiles: int
    geometry: tuple[tuple[int, ...], int]

    def goes_on_with(self, tile: Run) -> bool:
        """Whether the single ``tile`` is the next one of this run."""
        step = self.tiles * self.size
        return self.geometry == tile.geometry and (tile.query, tile.key) == (
            self.query + step,
            self.key + step,
        )

    def and_one_more(self) -> Run:
        """This run with one more tile."""
        return self._replace(tiles=self.tiles + 1)

    def parts(self, most: int) -> Iterator[Run]:
        """Cut the run into runs of at most ``most`` tiles."""
        for first in range(0, self.tiles, most):
            skipped = first * self.size
            count = min(most, self.tiles - first)
            yield self._replace(query=self.query + skipped, key=self.key + skipped, tiles=count)

    def queries(self) -> slice:
        """The indices of all queries of the run along its axis."""
        return slice(self.query, self.query + self.tiles * self.size)

    def keys(self) -> slice:
        """The indices of all keys of the run along its axis."""
        return slice(self.key, self.key + (self.tiles - 1) * self.size + self.box)


Geometry = tuple[tuple[tuple[int, ...], int], ...]
Runs = tuple[Run, Run, Run]


def window_start(query: int, length: int, window: int) -> int:
    """The first of the ``window`` positions to which position ``query`` of an axis attends.

    The axis has ``length`` positions.
    """
    return min(max(query - window // 2, 0), length - window)


def needed(queries: Span, length: int, window: int) -> Span:
    """The positions that the windows, of ``window`` positions each, of all ``queries`` cover together.

    ``length`` is the number of positions of the axis.
    """
    return Span(
        window_start(queries.start, length, window),
        window_start(queries.stop - 1, length, window) + window,
    )


def batches(axes: tuple[Axis, Axis, Axis], sizes: tuple[int, int, int], most: int) -> Iterator[Runs]:
    """Cut the queries of three axes into tiles of ``sizes`` positions, and group neighbouring tiles.

    Yields each group as a run of tiles for every axis. The tiles of a group share one mask; their number, the
    product over the axes, is at most ``most``.
    """
    runs = (axis.runs(size) for axis, size in zip(axes, sizes, strict=True))
    for times, rows, columns in product(*runs):
        across = min(columns.tiles, most)
        down = min(rows.tiles, max(1, most // across))
        along = min(times.tiles, max(1, most // (across * down)))
        yield from product(times.parts(along), rows.parts(down), columns.parts(across))


def mask(geometry: Geometry, dtype: torch.dtype, device: torch.device) -> Tensor | None:
    """Additive attention mask (queries, keys) of a tile of queries: 0 within a window, -inf outside.

    ``geometry`` has for each axis the first key of each query, counted from the tile's first key, and the
    size of a window. None if every query of the tile attends to all its keys.
    """
    if all(offsets[-1] == 0 for offsets, _ in geometry):
        return None
    t, h, w = (_inside(offsets, window, device) for offsets, window in geometry)
    visible = t[:, None, None, :, None, None] & h[:, None, None, :, None] & w[:, None, None, :]
    hidden = torch.zeros(visible.shape, dtype=dtype, device=device).masked_fill_(~visible, float("-inf"))
    return rearrange(hidden, "t h w i j k -> (t h w) (i j k)")


def _inside(offsets: tuple[int, ...], window: int, device: torch.device) -> Tensor:
    """Whether a key is in the window of a query, for one axis of a tile: booleans (queries, keys).

    ``offsets`` are the first key of each query, counted from the tile's first key; ``window`` is the number
    of keys that each query attends to.
    """
    keys = torch.arange(offsets[-1] + window, device=device)
    starts = torch.tensor(offsets, device=device)[:, None]
    return (keys >= starts) & (keys < starts + window)
