"""Where the tiles of a divided stage begin and end along one axis of the latent."""

from __future__ import annotations

from typing import Final, TypeAlias

Span: TypeAlias = tuple[int, int]
"""Cells of one axis: from the first number to before the second."""

OVERLAPS: Final = (8, 6, 6)
"""Latent frames, rows and columns that neighbouring tiles share, as in the official pipeline."""


def spans(length: int, tiles: int, overlap: int) -> tuple[Span, ...]:
    """Divide an axis of ``length`` cells into ``tiles`` equal tiles that overlap by ``overlap`` cells.

    On a short axis the overlap is smaller, and an axis of fewer cells than tiles is not divided. The last
    tile has the cells that are left over.
    """
    if length < tiles or tiles == 1:
        return ((0, length),)
    overlap = min(overlap, length - tiles)
    size = (length + overlap * (tiles - 1)) // tiles
    starts = [index * (size - overlap) for index in range(tiles)]
    return tuple((start, length if start == starts[-1] else start + size) for start in starts)
