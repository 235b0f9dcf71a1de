"""Rotary position embedding over real-valued positions (seconds and pixels).

Letters: B batch, A position axes, N tokens, H heads, D head width, G frequencies per axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import pi

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from ..config import RopeConfig, RopeType


@dataclass(frozen=True)
class Rope:
    """One table: cos and sin (B, H, N, D/2), an angle for each pair of head channels."""

    cos: Tensor
    sin: Tensor
    rope_type: RopeType = "split"

    def to(self, dtype: torch.dtype, device: torch.device) -> Rope:
        return Rope(self.cos.to(device, dtype), self.sin.to(device, dtype), self.rope_type)


def frequency_grid(config: RopeConfig, width: int, axes: int) -> Tensor:
    """Angular frequencies (G,) float32 on the CPU, pi/2 to theta * pi/2 inclusive; G = width // (2 axes).

    Released checkpoints were trained with the grid rounded once from float64; one made in float32 is off by
    up to 0.005 at the top, where a clip spans thousands of radians.
    """
    count = width // (2 * axes)
    if config.precision == "float64":
        exponents = np.linspace(0.0, 1.0, count, dtype=np.float64)
        return torch.from_numpy((np.power(config.theta, exponents) * pi / 2).astype(np.float32))
    return torch.pow(config.theta, torch.linspace(0.0, 1.0, count)) * (pi / 2)


def rope_table(
    points: Tensor, max_pos: Sequence[float], *, width: int, heads: int, config: RopeConfig
) -> Rope:
    """Table for attention of inner ``width`` over ``heads``.

    ``points`` (B, A, N) float32 are in the units of ``max_pos`` (A,). Channels that the frequencies do not
    fill lie at the front, in head 0, and are not rotated.
    """
    axes = points.shape[1]
    if len(max_pos) != axes:
        raise ValueError(f"points have {axes} axes but max_pos has {len(max_pos)} entries; they must agree")
    # A tensor, not a number: CUDA divides by a number through its reciprocal, and an ulp of time is visible.
    limits = torch.tensor(max_pos, dtype=torch.float32, device=points.device).unsqueeze(-1)
    centred = points.float() / limits * 2 - 1
    grid = frequency_grid(config, width, axes).to(points.device)
    angles = rearrange(centred.unsqueeze(-1) * grid, "b a n g -> b n (g a)")
    pad = width // 2 - angles.shape[-1]
    cos = F.pad(angles.cos(), (pad, 0), value=1.0)
    sin = F.pad(angles.sin(), (pad, 0), value=0.0)
    by_head = "b n (h d) -> b h n d"
    return Rope(rearrange(cos, by_head, h=heads), rearrange(sin, by_head, h=heads), config.rope_type)


def rotate(x: Tensor, rope: Rope) -> Tensor:
    """Rotate channel pairs of x (B, H, N, D): halves of a head (split) or neighbours (interleaved)."""
    axis, shape = (-2, (2, -1)) if rope.rope_type == "split" else (-1, (-1, 2))
    pairs = x.view(*x.shape[:-1], *shape)
    out = pairs * rope.cos.unsqueeze(axis)
    out.select(axis, 0).addcmul_(pairs.select(axis, 1), rope.sin, value=-1)
    out.select(axis, 1).addcmul_(pairs.select(axis, 0), rope.sin)
    return out.view(x.shape)
