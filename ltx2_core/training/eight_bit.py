"""AdamW whose two averages are held in eight bits, after Dettmers et al. (2021), "8-bit Optimizers".

Letters: P values of a parameter, B blocks of 256 of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from .optimizer_names import OptimizerOptions

_BLOCK = 256
_LEAST = 4096
"""Parameters of fewer values have float32 averages, as with bitsandbytes: they save nothing."""
_EPS = 1e-8
_DECADES = 7


class AdamW8bit(torch.optim.Optimizer):
    """AdamW that holds both averages of a gradient as one byte a value and one factor for each 256 values.

    A byte is the place of a value in a table of 256 levels, which are close together near 0. Updates are
    computed in float32, one parameter after the other. ``groups`` are parameters or groups with a rate ``lr``
    of their own.
    """

    def __init__(
        self, groups: Iterable[nn.Parameter] | Iterable[dict[str, Any]], options: OptimizerOptions
    ) -> None:
        super().__init__(groups, {"lr": 1e-3, "betas": options.betas, "weight_decay": options.weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update all parameters that have a gradient."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad.float(), group)

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            for name, signed in _AVERAGES:
                state |= _packed(torch.zeros_like(gradient), name, signed)
        state["step"] += 1
        means = []
        for (name, signed), beta, value in zip(
            _AVERAGES, group["betas"], (gradient, gradient.square()), strict=True
        ):
            mean = _unpacked(state, name, signed, gradient).lerp_(value, 1 - beta)
            state |= _packed(mean, name, signed)
            means.append(mean.div_(1 - beta ** state["step"]))
        first, second = means
        rate = float(group["lr"])
        changed = parameter.float().mul_(1 - rate * group["weight_decay"])
        parameter.copy_(changed.addcdiv_(first, second.sqrt_().add_(_EPS), value=-rate))


_AVERAGES = (("exp_avg", True), ("exp_avg_sq", False))
"""Averages of the gradient and of its square, and whether they have a sign."""


def _packed(values: Tensor, name: str, signed: bool) -> dict[str, Tensor]:
    """The entries of a state for an average: codes (P, uint8) and factors (B), or itself if it is small."""
    if values.numel() < _LEAST:
        return {name: values}
    codes, factors = pack(values, signed=signed)
    return {f"{name}_codes": codes, f"{name}_factors": factors}


def _unpacked(state: dict[str, Any], name: str, signed: bool, like: Tensor) -> Tensor:
    """The average ``name`` of a state in float32, of the shape of ``like``."""
    if name in state:
        plain: Tensor = state[name].clone()
        return plain
    return unpack(state[f"{name}_codes"], state[f"{name}_factors"], signed=signed).view_as(like)


def pack(values: Tensor, *, signed: bool) -> tuple[Tensor, Tensor]:
    """Round values to the nearest levels; returns (codes (P, uint8), factors (B)).

    A factor is the largest absolute value of a block. What is not ``signed`` must not be negative.
    """
    flat = values.flatten()
    blocks = torch.nn.functional.pad(flat, (0, -len(flat) % _BLOCK)).view(-1, _BLOCK)
    factors = blocks.abs().amax(dim=1)
    # A block of zeros has no largest value to divide by.
    scaled = blocks / factors.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    table = levels(signed).to(values.device)
    between = (table[1:] + table[:-1]) / 2
    codes = torch.bucketize(scaled, between).to(torch.uint8).flatten()[: len(flat)]
    return codes, factors


def unpack(codes: Tensor, factors: Tensor, *, signed: bool) -> Tensor:
    """The values (P) of codes (P, uint8) and factors (B), in float32."""
    values = levels(signed).to(codes.device)[codes.int()]
    return values * factors.repeat_interleave(_BLOCK)[: len(values)]


@lru_cache(maxsize=2)
def levels(signed: bool) -> Tensor:
    """The 256 levels of a byte from -1 or 0 to 1, rising: in each of seven decades twice as many as below.

    They are the middles of equal parts of a decade from its tenth to the whole, 0 and 1.
    """
    found = [torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)]
    for number in range(_DECADES):
        parts = 2 ** (number + (not signed))
        edges = torch.linspace(0.1, 1, parts + 1, dtype=torch.float64)
        decade = (edges[1:] + edges[:-1]) / 2 * 10.0 ** (number + 1 - _DECADES)
        found += [decade, -decade] if signed else [decade]
    return torch.cat(found).sort().values.float()
