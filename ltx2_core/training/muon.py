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
            update = self._orthogonal if group["orthogonal"] else self._adam
            for p in group["params"]:
                if p.grad is not None:
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    update(p, p.grad, group)

    def _orthogonal(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        average = state["momentum"].lerp_(grad, 1 - group["momentum"])
        # Inputs vary fastest: in channels-last weights, the faster layout on a CPU, this is a view.
        matrix = grad.lerp(average, group["momentum"]).movedim(1, -1).flatten(1)
        blocks = matrix.split(_BLOCK) if min(matrix.shape) > _LARGEST else [matrix]
        rows = torch.cat([orthogonalised(block) for block in blocks])
        direction = rows.view(p.shape[0], *p.shape[2:], p.shape[1]).movedim(-1, 1)
        p.add_(direction, alpha=-group["lr"] * max(1.0, p.shape[0] / p.shape[1]) ** 0.5)

    def _adam(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if not state:
            state |= {"step": 0, "mean": torch.zeros_like(p), "square": torch.zeros_like(p)}
        state["step"] += 1
        fast, slow = group["betas"]
        mean = state["mean"].lerp_(grad, 1 - fast) / (1 - fast ** state["step"])
        square = state["square"].lerp_(grad.square(), 1 - slow) / (1 - slow ** state["step"])
        p.addcdiv_(mean, square.sqrt().add_(group["eps"]), value=-group["lr"])


def orthogonalised(matrix: Tensor, steps: int = 5) -> Tensor:
    """The matrix (R, C) with all singular values brought near 1, by Newton-Schulz steps.

    Every step is a polynomial of the small Gram matrix times the matrix, so only the Gram matrix is iterated
    and the large one is touched twice: for the flat matrices of convolutions a fifth of the work.
    """
    linear, cubic, quintic = NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.mT if tall else matrix).float()
    x = x / (x.norm() + 1e-7)
    gram = x @ x.mT
    total: Tensor = gram
    for step in range(steps):
        factor = torch.addmm(gram, gram, gram, beta=cubic, alpha=quintic)
        factor.diagonal().add_(linear)
        total = factor @ total if step else factor
        if step < steps - 1:
            gram = factor @ gram @ factor
    x = total @ x
    result: Tensor = (x.mT if tall else x).contiguous()
    return result
