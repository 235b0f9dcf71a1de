"""Noise levels of training steps: a stretched logit-normal distribution, shifted by the length of a clip.

Letters: B batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .draws import Draws

_LOW, _HIGH = 2.5758, 3.0902
"""Standard deviations below and above the mean that are stretched to 0 and 1: quantiles 0.005 and 0.999."""
MAX_SHIFT = 10
"""The largest shift to both sides that can be written.

The nearer noise levels are to 1, the fewer of them float32 tells apart before they are stretched. At 10 a
``std`` of 1 still has thousands; a small one has too few below it already.
"""
_SPACING = torch.finfo(torch.float32).eps / 2
"""Between numbers of float32 just below 1."""
_LEAST_LEVELS = 16
"""Fewer numbers than these in float32 between the bounds are no distribution of noise levels."""


def sigma_mean(tokens: int) -> float:
    """The mean of the logit of the noise level for ``tokens`` target tokens of a stream.

    A straight line through 0.95 at 1024 tokens and 2.05 at 4096, continued beyond both. Tokens of references
    do not count.
    """
    return 0.95 + (tokens - 1024) * (2.05 - 0.95) / (4096 - 1024)


@dataclass(frozen=True, kw_only=True)
class SigmaSampling:
    """How the noise levels of a training step are drawn.

    With ``kind`` "shifted_logit_normal" the logit of sigma is normal, with the mean ``shift``, or that of
    :func:`sigma_mean` if it is None, and the standard deviation ``std``; the result is stretched to [0, 1],
    and the share ``uniform_prob`` of all samples gets a uniform number from [``eps``, 1) instead. "uniform"
    draws from [``low``, ``high``). Raises ValueError for values out of range, and for a ``shift`` and ``std``
    whose noise levels are nearly all the same in float32; a ``shift`` by tokens is checked for each clip too.
    """

    kind: Literal["shifted_logit_normal", "uniform"] = "shifted_logit_normal"
    shift: float | None = None
    std: float = 1.0
    eps: float = 1e-3
    uniform_prob: float = 0.1
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in ("shifted_logit_normal", "uniform"):
            raise ValueError(f"sigma_sampling={self.kind!r} must be shifted_logit_normal or uniform")
        if self.shift is not None and not -MAX_SHIFT <= self.shift <= MAX_SHIFT:
            raise ValueError(f"sigma_shift={self.shift:g} must be from {-MAX_SHIFT} to {MAX_SHIFT}")
        if not (self.std > 0 and math.isfinite(self.std)):
            raise ValueError(f"sigma_std={self.std} must be above 0")
        if not 0 <= self.eps < 0.5:
            raise ValueError(f"sigma_eps={self.eps} must be from 0 to below 0.5")
        if not 0 <= self.uniform_prob <= 1:
            raise ValueError(f"uniform_prob={self.uniform_prob} must be from 0 to 1")
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(f"a sigma range of {self.low} to {self.high} must lie in 0 to 1, and rise")
        if self.kind == "shifted_logit_normal":
            # The mean of one token is the nearest to 0 of all, where most noise levels differ.
            self._check_spread(1)

    def _check_spread(self, tokens: int) -> None:
        """Raise ValueError if noise levels for ``tokens`` are too near to each other to be stretched."""
        low, high = self._bounds(tokens, torch.device("cpu"))
        if float(high - low) < _LEAST_LEVELS * _SPACING * float(high):
            mean = sigma_mean(tokens) if self.shift is None else self.shift
            shift = f"{mean:g}" if self.shift is not None else f"tokens ({mean:g} for {tokens} tokens)"
            raise ValueError(
                f"sigma_shift={shift} with sigma_std={self.std:g} must give noise levels that differ in "
                "float32, and these are nearly all the same: use a sigma_shift nearer to 0 or a larger "
                "sigma_std"
            )

    def _bounds(self, tokens: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """The noise levels (float32 scalars) that are stretched to 0 and 1."""
        mean = sigma_mean(tokens) if self.shift is None else self.shift
        # In float32 as in the official trainer: in float64 sigma differs by 2e-6.
        low, high = (
            torch.sigmoid(torch.tensor(bound, dtype=torch.float32, device=device))
            for bound in (mean - _LOW * self.std, mean + _HIGH * self.std)
        )
        return low, high

    def draw(self, batch: int, tokens: int, draws: Draws) -> Tensor:
        """Draw one noise level for each of ``batch`` samples: (B,) float32 in [0, 1].

        ``tokens`` is the number of target tokens of the stream.
        """
        if self.kind == "uniform":
            return self.low + (self.high - self.low) * draws.uniform(batch)
        # All three are drawn whether they are used or not, so that later draws do not depend on their values.
        normal, uniform, choice = draws.normal(batch), draws.uniform(batch), draws.uniform(batch)
        return self.of_draws(normal, uniform, choice, tokens)

    def of_draws(self, normal: Tensor, uniform: Tensor, choice: Tensor, tokens: int) -> Tensor:
        """The noise levels (B,) of three random tensors (B,) float32; the last two are from [0, 1).

        Raises ValueError if noise levels for ``tokens`` are too near to each other to be stretched.
        """
        if self.shift is None:
            self._check_spread(tokens)
        mean = sigma_mean(tokens) if self.shift is None else self.shift
        low, high = self._bounds(tokens, normal.device)
        stretched = (torch.sigmoid(mean + self.std * normal) - low) / (high - low)
        # Levels of nearly no noise are reflected, because they teach nothing.
        stretched = torch.where(stretched < self.eps, 2 * self.eps - stretched, stretched).clamp(0, 1)
        plain = (1 - self.eps) * uniform + self.eps
        return torch.where(choice > self.uniform_prob, stretched, plain)
