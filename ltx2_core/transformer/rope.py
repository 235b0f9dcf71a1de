"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864) of real positions: seconds and pixels.

Letters: B batch, A position axes, N tokens, H heads, D head width, G frequencies per axis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import pi

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from ..config import RopeConfig, RopeType

_TABLE_TOKENS = 1024
_PAIRS: Mapping[RopeType, tuple[int, int]] = {"split": (2, -1), "interleaved": (-1, 2)}


@dataclass(frozen=True)
class Rope:
    """Rotary table: cosine and sine, each (B, H, N, D/2), of an angle for each pair of channels of a head.

    H heads of width D, N tokens; B is the batch or 1. ``rope_type`` says which channels form a pair: channel
    i of either half of a head ("split"), or neighbours ("interleaved").
    """

    cos: Tensor
    sin: Tensor
    rope_type: RopeType = "split"

    @cached_property
    def paired(self) -> Tensor:
        """The cosines with a new axis of size 1, which broadcasts over the two channels of a pair."""
        return self.cos.unsqueeze(-2 if self.rope_type == "split" else -1)

    def to(self, dtype: torch.dtype, device: torch.device) -> Rope:
        if (self.cos.dtype, self.cos.device) == (dtype, device):
            return self
        return Rope(self.cos.to(device, dtype), self.sin.to(device, dtype), self.rope_type)

    def part(self, tokens: slice) -> Rope:
        """The table for some of the tokens, those of the slice ``tokens``."""
        return Rope(self.cos[:, :, tokens], self.sin[:, :, tokens], self.rope_type)


def frequency_grid(config: RopeConfig, width: int, axes: int) -> Tensor:
    """Angular frequencies (G,) float32 on the CPU, spaced geometrically from pi/2 to theta * pi/2.

    G = width // (2 axes), for attention of ``width`` channels, all heads together, at positions with ``axes``
    axes. ``config`` has theta and the precision: released checkpoints were trained with frequencies that are
    computed in float64 and rounded once. Computed in float32, the highest are off by up to 0.005, where a
    clip spans thousands of radians.
    """
    count = width // (2 * axes)
    if config.precision == "float64":
        # Both ends are included: the highest frequency is exactly theta * pi/2. The official code uses numpy
        # here, too.
        exponents = np.linspace(0.0, 1.0, count, dtype=np.float64)
        return torch.from_numpy((np.power(config.theta, exponents) * pi / 2).astype(np.float32))
    return torch.pow(config.theta, torch.linspace(0.0, 1.0, count)) * (pi / 2)


def rope_table(
    points: Tensor,
    max_pos: Sequence[float],
    *,
    width: int,
    heads: int,
    config: RopeConfig,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Rope:
    """Rotary table of N tokens at ``points`` (B, A, N), for ``heads`` heads of ``width`` channels in all.

    Points are one position per token on each of A axes, such as seconds and pixels; 0 to ``max_pos``, a
    number for each axis in the same unit, is scaled to [-1, 1]. The table is computed in float32 and stored
    as ``dtype`` on ``device``, by default that of the points. If the frequencies do not fill all channels,
    the first channels of head 0 are not rotated. Raises ValueError if the numbers of axes differ.
    """
    axes, tokens = points.shape[1:]
    if len(max_pos) != axes:
        raise ValueError(f"points have {axes} axes but max_pos has {len(max_pos)} entries; they must agree")
    # A tensor, not a number: CUDA divides by a number through its reciprocal, and an ulp of time is visible.
    limits = torch.tensor(max_pos, dtype=torch.float32, device=points.device).unsqueeze(-1)
    centred = points.float() / limits * 2 - 1
    grid = frequency_grid(config, width, axes).to(points.device)
    # Two channels of 4096 are left over by three axes; released checkpoints have them at the front.
    pad = width // 2 - axes * len(grid)
    shape = (len(points), tokens, width // 2)
    # The table has the dtype of the tokens, as in the official code; diffusers rotates in float32 instead.
    cos = torch.empty(shape, dtype=dtype, device=device or points.device)
    sin = torch.empty_like(cos)
    # Cosine 1 and sine 0 leave a channel as it is.
    cos[..., :pad], sin[..., :pad] = 1, 0
    # A part at a time: float32 angles of a whole clip are several times the table.
    for start in range(0, tokens, _TABLE_TOKENS):
        part = slice(start, start + _TABLE_TOKENS)
        # The axis varies fastest: time, row and column of one frequency are neighbours.
        angles = rearrange(centred[:, :, part].unsqueeze(-1) * grid, "b a n g -> b n (g a)")
        cos[:, part, pad:], sin[:, part, pad:] = angles.cos(), angles.sin()
    by_head = "b n (h d) -> b h n d"
    return Rope(rearrange(cos, by_head, h=heads), rearrange(sin, by_head, h=heads), config.rope_type)


def rotate(x: Tensor, rope: Rope) -> Tensor:
    """Rotate each pair of channels of x (B, H, N, D) by its angle in ``rope``.

    Pairs are channel i of either half of a head ("split"), or neighbours ("interleaved"), as ``rope`` says.
    """
    return _rotated(x.unflatten(-1, _PAIRS[rope.rope_type]), rope)


def rotate_heads(x: Tensor, rope: Rope, heads: int) -> Tensor:
    """Split x (B, N, H D) into ``heads`` heads and rotate their channels by ``rope`` -> (B, H, N, D)."""
    return _rotated(x.unflatten(-1, (heads, *_PAIRS[rope.rope_type])).transpose(1, 2), rope)


def _rotated(pairs: Tensor, rope: Rope) -> Tensor:
    """Rotate pairs of channels by ``rope`` -> (B, H, N, D).

    Pairs are (B, H, N, 2, D / 2), or (B, H, N, D / 2, 2) if ``rope`` is interleaved.
    """
    axis = -2 if rope.rope_type == "split" else -1
    first, second = pairs.unbind(axis)
    out = pairs * rope.paired
    # Autograd forbids writing into views of which one call returned several.
    halves = (out.select(axis, 0), out.select(axis, 1)) if torch.is_grad_enabled() else out.unbind(axis)
    # In place, so that no further copies of queries and keys exist.
    halves[0].addcmul_(second, rope.sin, value=-1)
    halves[1].addcmul_(first, rope.sin)
    result: Tensor = out.flatten(-2)
    return result
