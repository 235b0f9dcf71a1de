"""Rotary embedding of absolute positions in time, height and width, for heads of the diffusion decoder."""

from __future__ import annotations

import torch
from torch import Tensor

from .windows import Span

THETA = 10000.0


def head_parts(head_dim: int) -> tuple[int, int, int]:
    """How many values of a head are rotated by time, by height and by width: 16, 24 and 24 of 64."""
    time = head_dim // 4 // 2 * 2
    side = (head_dim - time) // 2
    # Values are rotated in pairs.
    if side % 2:
        time -= 2
        side = (head_dim - time) // 2
    return time, side, side


def rotation(spans: tuple[Span, Span, Span], head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines (T, H, W, 1, head_dim / 2) in float32 for the positions of three axes."""
    shape = tuple(span.size for span in spans)
    angles = []
    for axis, (span, width) in enumerate(zip(spans, head_parts(head_dim), strict=True)):
        turned = _angles(span, width, device)
        view = [1, 1, 1, turned.shape[-1]]
        view[axis] = span.size
        angles.append(turned.view(view).expand(*shape, -1))
    whole = torch.cat(angles, dim=-1).unsqueeze(-2)
    return whole.cos(), whole.sin()


def _angles(span: Span, width: int, device: torch.device) -> Tensor:
    """Angles (positions, width / 2) in float32, the first half turn taken out in double precision."""
    # On the CPU, because some accelerators have no float64. Positions of long clips are large, so that angles
    # are brought below a turn before they become float32.
    exponents = torch.arange(0, width, 2, dtype=torch.float64) / width
    frequencies = (1.0 / THETA**exponents).float().double()
    positions = torch.arange(span.start, span.stop, dtype=torch.float64)
    return (positions[:, None] * frequencies).remainder(2 * torch.pi).float().to(device)


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate adjacent pairs of the last axis of x (B, T, H, W, N, D) by the angles of ``table``, in float32."""
    cos, sin = table
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return turned.flatten(-2).to(x.dtype)
