"""Neighbourhood attention in three dimensions, by tiles of queries that share the keys around them.

Letters: B batch, T H W time, rows and columns, N heads, D head width. No window is ever stored for each
query: a tile of queries attends to the box of keys that holds all its windows, and a mask hides the rest of
the box.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .kernels import kernel_for
from .windows import Axis, Geometry, Runs, batches, mask

BATCH_BYTES = 32 * 2**20
"""Most bytes that the copies of keys for one call of attention may take."""
MASK_BYTES = 40 * 2**20
"""Most bytes of masks that are held for further use."""


class Masks:
    """The attention masks made during one pass over a clip, cached by the geometry of a tile of queries.

    A geometry says which keys each query of a tile attends to. All blocks and pieces have the same few
    geometries: those of the interior and of each border.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[Geometry, torch.dtype, torch.device], Tensor | None] = {}
        self._bytes = 0

    def of(self, geometry: Geometry, like: Tensor) -> Tensor | None:
        """The additive mask (queries, keys) for a tile of queries, in dtype and device of ``like``.

        ``geometry`` says for each axis which keys each query of the tile attends to. The mask is made once
        for each geometry. None if every query attends to all keys.
        """
        key = geometry, like.dtype, like.device
        if key not in self._known:
            made = mask(*key)
            self._bytes += 0 if made is None else made.nbytes
            # The oldest are those of the clip's start, which do not come again.
            while self._bytes > MASK_BYTES and self._known:
                old = self._known.pop(next(iter(self._known)))
                self._bytes -= 0 if old is None else old.nbytes
            self._known[key] = made
        return self._known[key]


def neighbourhood_attention(
    q: Tensor, k: Tensor, v: Tensor, axes: tuple[Axis, Axis, Axis], masks: Masks
) -> Tensor:
    """softmax(q kᵀ) v over the window of each query.

    q (B, T, H, W, N, D), already scaled; k and v (B, T', H', W', N, D) -> (B, T, H, W, N, D). ``axes`` say
    where queries and keys lie on the axes T, H and W, and how long windows are. ``masks`` is a cache of
    attention masks, to which new ones are added. On CUDA a kernel computes it where there is one.
    """
    kernel = kernel_for(q, k, v, axes, boxes(tuple(axis.window for axis in axes)))
    if kernel is not None:
        return kernel(q, k, v, axes)
    out = torch.empty_like(q)
    for runs in groups_of(axes, k):
        attend(out, q, k, v, runs, masks)
    return out


def groups_of(axes: tuple[Axis, Axis, Axis], k: Tensor) -> Iterator[Runs]:
    """Divide the tiles of queries among calls of attention; each is a run of tiles for every axis.

    ``axes`` say where queries and keys lie, k (B, T, H, W, N, D) are the keys.
    """
    sizes = tile_size((axes[0].window, axes[1].window, axes[2].window))
    return batches(axes, sizes, _at_once(axes, sizes, k))


def attend(out: Tensor, q: Tensor, k: Tensor, v: Tensor, runs: Runs, masks: Masks) -> None:
    """Write the attention of one group of tiles of queries, ``runs``, to their place in ``out``.

    The other arguments, and the shapes, are those of :func:`neighbourhood_attention`.
    """
    times, rows, columns = runs
    queries = (slice(None), times.queries(), rows.queries(), columns.queries())
    keys = (slice(None), times.keys(), rows.keys(), columns.keys())
    result = F.scaled_dot_product_attention(
        _tiles(q[queries], runs, [run.size for run in runs]),
        _tiles(k[keys], runs, [run.box for run in runs]),
        _tiles(v[keys], runs, [run.box for run in runs]),
        attn_mask=masks.of((times.geometry, rows.geometry, columns.geometry), q),
        # Queries are scaled before they are rotated, as in the released network.
        scale=1.0,
    )
    out[queries].copy_(_joined(result, runs))


def tile_size(window: tuple[int, int, int]) -> tuple[int, int, int]:
    """Positions of a tile of queries along each axis, for windows of this size.

    Small tiles attend to few keys outside of their windows, large ones fill the units of the hardware: for
    windows of 11 x 11 x 11 the tiles have 4 x 4 x 8 queries, and their boxes 2.65 times the keys of a window.
    """
    time, height, width = window
    return max(1, (time + 1) // 3), max(2, (height + 1) // 3), max(4, 2 * ((width + 1) // 3))


def boxes(window: Sequence[int]) -> float:
    """How many times as many keys a tile of queries attends to as there are in one ``window``."""
    time, height, width = window
    sizes = tile_size((time, height, width))
    return prod((size + keys - 1) / keys for size, keys in zip(sizes, window, strict=True))


def _at_once(axes: tuple[Axis, Axis, Axis], sizes: tuple[int, int, int], k: Tensor) -> int:
    """How many tiles of queries one call of attention takes, so that its copies of keys stay small.

    ``sizes`` are the positions of a tile along time, rows and columns, ``axes`` have the sizes of windows,
    and k (B, T, H, W, N, D) are the keys.
    """
    keys = prod(size + axis.window - 1 for size, axis in zip(sizes, axes, strict=True))
    box = k.shape[0] * keys * k.shape[4] * k.shape[5] * k.element_size()
    return max(1, BATCH_BYTES // box)


def _tiles(x: Tensor, runs: Runs, sizes: Sequence[int]) -> Tensor:
    """Copy for each tile of queries its part of x (B, T, H, W, N, D) -> (tiles * B, N, positions, D).

    x are queries, keys or values. A part has ``sizes`` positions along T, H and W; it is the tile itself for
    queries, and all keys that the tile attends to for keys and values. ``runs`` say for each axis how many
    tiles there are and how far apart.
    """
    for axis, (run, size) in enumerate(zip(runs, sizes, strict=True), start=1):
        x = x.unfold(axis, size, run.size)
    return rearrange(x, "b i j k n d t h w -> (i j k b) n (t h w) d")


def _joined(x: Tensor, runs: Runs) -> Tensor:
    """Put tiles of queries (tiles * B, N, positions, D) together -> (B, T, H, W, N, D), a view or a copy.

    ``runs`` say where the tiles lie.
    """
    (i, j, k), (t, h, w) = ([run.tiles for run in runs], [run.size for run in runs])
    return rearrange(x, "(i j k b) n (t h w) d -> b (i t) (j h) (k w) n d", i=i, j=j, k=k, t=t, h=h, w=w)
