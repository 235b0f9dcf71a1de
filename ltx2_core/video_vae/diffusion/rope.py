"""Rotary embedding of absolute positions in time, height and width, for heads of the diffusion decoder."""

from __future__ import annotations

import torch
from torch import Tensor

from .windows import Span

THETA = 10000.0
CHUNK_BYTES = 4 * 2**20
"""Bytes, roughly, of the queries or keys that are rotated at a time: their float32 copies are larger."""


def head_parts(head_dim: int) -> tuple[int, int, int]:
    """How many values of a head are rotated by time, by height and by width: 16, 24 and 24 of 64."""
    time = head_dim // 4 // 2 * 2
    side = (head_dim - time) // 2
    # Values are rotated in pairs.
    if side % 2:
        time -= 2
        side = (head_dim - time) // 2
    return time, side, side


class Rotation:
    """The rotary table of a piece: cosines and sines of its positions in time, height and width.

    They are computed once. ``spans`` are the indices of time, rows and columns that the piece covers: time is
    counted from the clip's start, rows and columns from the piece's top left corner. ``head_dim`` is the
    width of an attention head.
    """

    def __init__(self, spans: tuple[Span, Span, Span], head_dim: int, device: torch.device) -> None:
        self.starts = tuple(span.start for span in spans)
        self.tables = tuple(
            _table(span, width, device) for span, width in zip(spans, head_parts(head_dim), strict=True)
        )

    def box(self, spans: tuple[Span, Span, Span]) -> tuple[Tensor, Tensor]:
        """Cosines and sines, each (T, H, W, 1, head_dim / 2) in float32, of the positions ``spans``."""
        shape = [span.size for span in spans]
        parts: list[Tensor] = []
        for axis, (span, start, table) in enumerate(zip(spans, self.starts, self.tables, strict=True)):
            view = [1, 1, 1, 1, -1]
            view[axis] = span.size
            turned = table[:, span.start - start : span.stop - start]
            parts.append(turned.reshape(2, *view).expand(2, *shape, 1, -1))
        cos, sin = torch.cat(parts, dim=-1)
        return cos, sin


def _table(span: Span, width: int, device: torch.device) -> Tensor:
    """Cosines and sines (2, positions, width / 2) in float32 for the positions ``span`` of one axis.

    ``width`` is how many values of a head are rotated by this axis.
    """
    # On the CPU, because some accelerators have no float64, which angles of long clips need.
    exponents = torch.arange(0, width, 2, dtype=torch.float64) / width
    frequencies = (1.0 / THETA**exponents).float().double()
    positions = torch.arange(span.start, span.stop, dtype=torch.float64)
    angles = positions[:, None] * frequencies
    return torch.stack((angles.cos(), angles.sin())).float().to(device)


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate adjacent pairs of the last axis of x (B, T, H, W, N, D), in float32.

    ``table`` holds the cosines and sines of their angles, each (T, H, W, 1, D / 2).
    """
    out = torch.empty_like(x)
    frames = max(1, CHUNK_BYTES // (x[:, :1].numel() * x.element_size()))
    for first in range(0, x.shape[1], frames):
        part = slice(first, first + frames)
        cos, sin = (values[part] for values in table)
        even, odd = (half.float() for half in x[:, part].unflatten(-1, (-1, 2)).unbind(-1))
        pairs = out[:, part].unflatten(-1, (-1, 2))
        pairs[..., 0] = (even * cos).addcmul_(odd, sin, value=-1)
        pairs[..., 1] = (even * sin).addcmul_(odd, cos)
    return out
