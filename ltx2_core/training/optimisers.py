"""Muon: momentum made orthogonal, matrix by matrix; AdamW for what is no matrix.

Keller Jordan, "Muon: an optimizer for hidden layers in neural networks" (2024). On the autoencoders here
forty steps of it do what a thousand of AdamW did: their gradients are dominated by the flat background, and
orthogonalising gives the rare directions, the edges, an equal say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration: singular values end in about 0.7 to 1.2, which is near enough."""

_LARGEST, _BLOCK = 256, 128
"""A matrix larger than this both ways is taken in blocks of rows, for the cost grows with its size cubed."""


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum for parameters of two or more axes, AdamW for the rest.

    ``lr`` is the spectral norm of an update (times sqrt(outputs / inputs) where that exceeds 1); ``adam_lr``
    belongs to vectors and to the parameters in ``plain``. A schedule scales both. Convolutions count as
    matrices (outputs, inputs x taps).
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        lr: float = 0.02,
        adam_lr: float = 1e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.98),
        weight_decay: float = 0.0,
        plain: Iterable[nn.Parameter] = (),
    ) -> None:
        exempt = {id(p) for p in plain}
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for p in params:
            (others if p.ndim < 2 or id(p) in exempt else matrices).append(p)
        groups: list[dict[str, Any]] = [
            {"params": matrices, "lr": lr, "momentum": momentum, "orthogonal": True},
            {"params": others, "lr": adam_lr, "betas": list(betas), "orthogonal": False},
        ]
        super().__init__([g for g in groups if g["params"]], {"weight_decay": weight_decay, "eps": 1e-8})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            given = [p for p in group["params"] if p.grad is not None]
            if given:
                torch._foreach_mul_(given, 1 - group["lr"] * group["weight_decay"])
                (self._orthogonal if group["orthogonal"] else self._adam)(given, group)

    def _orthogonal(self, given: list[Tensor], group: dict[str, Any]) -> None:
        grads = [p.grad for p in given if p.grad is not None]
        averages = [self._kept(p, "momentum") for p in given]
        torch._foreach_lerp_(averages, grads, 1 - group["momentum"])
        wanted = torch._foreach_lerp(grads, averages, group["momentum"])
        # Matrices of one shape go through the iteration together: on a GPU that saves most of the launches.
        alike: dict[torch.Size, list[int]] = {}
        for number, p in enumerate(given):
            alike.setdefault(p.shape, []).append(number)
        for shape, numbers in alike.items():
            # Inputs vary fastest: in channels-last weights, the faster layout on a CPU, this is a view.
            matrices = torch.stack([wanted[number].movedim(1, -1).flatten(1) for number in numbers])
            blocks = matrices.split(_BLOCK, dim=1) if min(matrices.shape[1:]) > _LARGEST else [matrices]
            rows = torch.cat([orthogonalised(block) for block in blocks], dim=1)
            directions = rows.view(len(numbers), shape[0], *shape[2:], shape[1]).movedim(-1, 2)
            torch._foreach_add_(
                [given[number] for number in numbers],
                list(directions.unbind()),
                alpha=-group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5,
            )

    def _adam(self, given: list[Tensor], group: dict[str, Any]) -> None:
        grads = [p.grad for p in given if p.grad is not None]
        means, squares = ([self._kept(p, name) for p in given] for name in ("mean", "square"))
        steps = []
        for p in given:
            self.state[p]["step"] = self.state[p].get("step", 0) + 1
            steps.append(self.state[p]["step"])
        fast, slow = group["betas"]
        torch._foreach_lerp_(means, grads, 1 - fast)
        torch._foreach_lerp_(squares, torch._foreach_pow(grads, 2), 1 - slow)
        below = torch._foreach_div(squares, [1 - slow**step for step in steps])
        torch._foreach_sqrt_(below)
        torch._foreach_add_(below, group["eps"])
        torch._foreach_mul_(below, [1 - fast**step for step in steps])
        torch._foreach_addcdiv_(given, means, below, value=-group["lr"])

    def _kept(self, p: Tensor, name: str) -> Tensor:
        """A running average that begins at zero."""
        state = self.state[p]
        if name not in state:
            state[name] = torch.zeros_like(p)
        average: Tensor = state[name]
        return average


def orthogonalised(matrix: Tensor, steps: int = 5) -> Tensor:
    """Matrices (..., R, C) with all singular values brought near 1, by Newton-Schulz steps.

    Every step is a polynomial of the small Gram matrix times the matrix, so only the Gram matrix is iterated
    and the large one is touched twice: for the flat matrices of convolutions a fifth of the work.
    """
    linear, cubic, quintic = NEWTON_SCHULZ
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = (matrix.mT if tall else matrix).float()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    gram = x @ x.mT
    total: Tensor = gram
    for step in range(steps):
        factor = cubic * gram + quintic * (gram @ gram)
        factor.diagonal(dim1=-2, dim2=-1).add_(linear)
        total = factor @ total if step else factor
        if step < steps - 1:
            gram = factor @ gram @ factor
    x = total @ x
    result: Tensor = (x.mT if tall else x).contiguous()
    return result
