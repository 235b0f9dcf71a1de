"""Neighbourhood attention in three dimensions, by tiles of queries that share the keys around them.

Letters: B batch, T H W time, rows and columns, N heads, D head width. No window is ever stored for each query:
a tile of queries attends to the box of keys that holds all its windows, and a mask hides the rest of the box.
"""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .windows import Axis, Geometry, Tile, grouped_tiles, mask

BATCH_BYTES = 32 * 2**20
"""Limit of the copies of keys that one call of attention takes."""


class Masks:
    """The masks of one pass over a clip, by the geometry of their tiles.

    All blocks and pieces have the same few geometries: those of the interior and of each border.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[Geometry, torch.dtype, torch.device], Tensor | None] = {}

    def of(self, geometry: Geometry, like: Tensor) -> Tensor | None:
        """The additive mask (queries, keys) in dtype and on the device of ``like``; None if it hides nothing."""
        key = geometry, like.dtype, like.device
        if key not in self._known:
            self._known[key] = mask(*key)
        return self._known[key]


def neighbourhood_attention(
    q: Tensor, k: Tensor, v: Tensor, axes: tuple[Axis, Axis, Axis], masks: Masks
) -> Tensor:
    """softmax(q kᵀ) v over the window of each query.

    q (B, T, H, W, N, D), already scaled; k and v (B, T', H', W', N, D) -> (B, T, H, W, N, D). ``axes`` say
    where queries and keys lie on the axes T, H and W.
    """
    out = torch.empty_like(q)
    for geometry, tiles in grouped_tiles(axes, tile_sizes(axes)):
        bias = masks.of(geometry, q)
        step = _at_once(tiles[0], k)
        for first in range(0, len(tiles), step):
            some = tiles[first : first + step]
            result = F.scaled_dot_product_attention(
                _boxes(q, [tile.queries for tile in some]),
                _boxes(k, [tile.keys for tile in some]),
                _boxes(v, [tile.keys for tile in some]),
                attn_mask=bias,
                # Queries are scaled before they are rotated, as in the released network.
                scale=1.0,
            )
            _put(out, some, result)
    return out


def tile_sizes(axes: tuple[Axis, Axis, Axis]) -> tuple[int, int, int]:
    """Positions of a tile of queries along each axis.

    Small tiles attend to few keys outside of their windows, large ones fill the units of the hardware: for
    windows of 11 x 11 x 11 the tiles have 4 x 4 x 8 queries, and their boxes 2.65 times the keys of a window.
    """
    time, height, width = (axis.window for axis in axes)
    return max(1, (time + 1) // 3), max(2, (height + 1) // 3), max(4, 2 * ((width + 1) // 3))


def _at_once(tile: Tile, k: Tensor) -> int:
    """How many tiles one call takes."""
    keys = prod(part.stop - part.start for part in tile.keys)
    box = k.shape[0] * keys * k.shape[4] * k.shape[5] * k.element_size()
    return max(1, BATCH_BYTES // box)


def _boxes(x: Tensor, boxes: list[tuple[slice, slice, slice]]) -> Tensor:
    """Copy equal boxes of x (B, T, H, W, N, D) -> (boxes B, N, positions, D)."""
    parts = torch.stack([x[:, t, h, w] for t, h, w in boxes])
    return rearrange(parts, "g b t h w n d -> (g b) n (t h w) d")


def _put(out: Tensor, tiles: list[Tile], result: Tensor) -> None:
    """Write the results (tiles B, N, positions, D) of ``tiles`` to their places in ``out``."""
    results = result.unflatten(0, (len(tiles), out.shape[0])).transpose(2, 3)
    for tile, one in zip(tiles, results, strict=True):
        place = out[:, tile.queries[0], tile.queries[1], tile.queries[2]]
        place.copy_(one.reshape(place.shape))

