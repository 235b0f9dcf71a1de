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
"""The largest shift to both sides that can be written."""
_SPACING = torch.finfo(torch.float32).eps / 2
"""Between numbers of float32 just below 1, relative to them."""
_COARSE, _LEAST = 256, 16
"""Numbers of float32 between the bounds: with fewer than the first the distance to 1 is computed, which has
more; fewer of that than the second are no distribution of noise levels.
"""


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
            self._stretched(torch.zeros(1), 1)

    def _stretched(self, normal: Tensor, tokens: int) -> Tensor:
        """Noise levels of ``normal`` numbers (B,), from 0 at the lower quantile to 1 at the upper one.

        Raises ValueError if levels for ``tokens`` are too near to each other in float32.
        """
        mean = sigma_mean(tokens) if self.shift is None else self.shift
        logits = mean + self.std * normal
        # In float32 as in the official trainer: in float64 sigma differs by 2e-6.
        bounds = torch.tensor((mean - _LOW * self.std, mean + _HIGH * self.std), dtype=torch.float32)
        sign = 1.0
        if mean > 0 and _levels_between(bounds) < _COARSE:
            # Officially they round to a few numbers, and to one from 65,000 tokens on.
            sign = -1.0
        if _levels_between(sign * bounds) < _LEAST:
            shift = f"{mean:g}" if self.shift is not None else f"tokens ({mean:g} for {tokens} tokens)"
            raise ValueError(
                f"sigma_shift={shift} with sigma_std={self.std:g} must give noise levels that differ in "
                "float32, and these are nearly all the same: use a sigma_shift nearer to 0 or a larger "
                "sigma_std"
            )
        # On the device of the numbers, whose sigmoid may round otherwise.
        low, high = torch.sigmoid(sign * bounds.to(normal.device))
        stretched: Tensor = (torch.sigmoid(sign * logits) - low) / (high - low)
        return stretched

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
        stretched = self._stretched(normal, tokens)
        # Levels of nearly no noise are reflected, because they teach nothing.
        stretched = torch.where(stretched < self.eps, 2 * self.eps - stretched, stretched).clamp(0, 1)
        plain = (1 - self.eps) * uniform + self.eps
        return torch.where(choice > self.uniform_prob, stretched, plain)


def _levels_between(logits: Tensor) -> float:
    """How many numbers of float32 are between the sigmoids of two ``logits`` (2,), about."""
    first, second = torch.sigmoid(logits).tolist()
    largest = max(first, second)
    return abs(second - first) / (_SPACING * largest) if largest else 0.0
