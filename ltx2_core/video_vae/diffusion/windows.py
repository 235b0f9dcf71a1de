"""The windows of neighbourhood attention along one axis, and how queries are cut into tiles that share them.

A query at position i of an axis of n positions attends to exactly K positions, from ``clamp(i - K // 2, 0,
n - K)`` on: at the borders the window is shifted inward, neither cut nor padded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor


class Span(NamedTuple):
    """Positions ``start`` to before ``stop`` of one axis."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis of an attention: which positions are queries, and which are keys.

    ``queries`` count from the axis' true beginning, ``first_key`` is the position of the first key in memory,
    ``length`` the number of all positions, ``window`` how many of them each query attends to.
    """

    queries: Span
    first_key: int
    length: int
    window: int

    def start(self, query: int) -> int:
        """Index in memory of the first key of the position ``query``."""
        return window_start(query, self.length, self.window) - self.first_key

    def tiles(self, size: int) -> list[AxisTile]:
        """Cut the queries into tiles of ``size`` positions."""
        tiles = []
        for first in range(*self.queries, size):
            last = min(first + size, self.queries.stop) - 1
            begin = self.start(first)
            offsets = tuple(self.start(query) - begin for query in range(first, last + 1))
            at = first - self.queries.start
            tiles.append(
                AxisTile(
                    queries=slice(at, at + len(offsets)),
                    keys=slice(begin, begin + offsets[-1] + self.window),
                    geometry=(offsets, self.window),
                )
            )
        return tiles


class AxisTile(NamedTuple):
    """A run of queries of one axis, and the keys that they attend to, as slices of tensors in memory.

    Tiles with the same ``geometry`` (the first key of each query, counted from the tile's first key, and the
    size of the window) have the same mask.
    """

    queries: slice
    keys: slice
    geometry: tuple[tuple[int, ...], int]


Geometry = tuple[tuple[tuple[int, ...], int], ...]


class Tile(NamedTuple):
    """A box of queries and the box of keys that holds all their windows."""

    queries: tuple[slice, slice, slice]
    keys: tuple[slice, slice, slice]


def window_start(query: int, length: int, window: int) -> int:
    """First position to which the position ``query`` of an axis of ``length`` positions attends."""
    return min(max(query - window // 2, 0), length - window)


def needed(queries: Span, length: int, window: int) -> Span:
    """The positions that the windows of ``queries`` cover together."""
    return Span(
        window_start(queries.start, length, window),
        window_start(queries.stop - 1, length, window) + window,
    )


def grouped_tiles(axes: tuple[Axis, Axis, Axis], sizes: tuple[int, int, int]) -> Iterator[tuple[Geometry, list[Tile]]]:
    """All tiles of queries of the three axes, grouped by their geometry."""
    groups: dict[Geometry, list[Tile]] = {}
    parts = [axis.tiles(size) for axis, size in zip(axes, sizes, strict=True)]
    for t, h, w in product(*parts):
        geometry = (t.geometry, h.geometry, w.geometry)
        tile = Tile((t.queries, h.queries, w.queries), (t.keys, h.keys, w.keys))
        groups.setdefault(geometry, []).append(tile)
    yield from groups.items()


def mask(geometry: Geometry, dtype: torch.dtype, device: torch.device) -> Tensor | None:
    """Additive mask (queries, keys) of the tiles of one geometry: 0 within a window, -inf outside.

    None if every query of the tile attends to all its keys.
    """
    if all(offsets[-1] == 0 for offsets, _ in geometry):
        return None
    t, h, w = (_inside(offsets, window, device) for offsets, window in geometry)
    visible = t[:, None, None, :, None, None] & h[:, None, None, :, None] & w[:, None, None, :]
    hidden = torch.zeros(visible.shape, dtype=dtype, device=device).masked_fill_(~visible, float("-inf"))
    return rearrange(hidden, "t h w i j k -> (t h w) (i j k)")


def _inside(offsets: tuple[int, ...], window: int, device: torch.device) -> Tensor:
    """(queries, keys) of one axis: whether a key is in the window of a query."""
    keys = torch.arange(offsets[-1] + window, device=device)
    starts = torch.tensor(offsets, device=device)[:, None]
    return (keys >= starts) & (keys < starts + window)
