"""Muon: orthogonalised momentum for matrices, AdamW for all other parameters.

Keller Jordan, "Muon: an optimizer for hidden layers in neural networks" (2024). It suits the tiny
autoencoders, whose gradients are dominated by flat background: orthogonalising gives rare directions, such as
edges, the same step size as frequent ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration, which brings singular values to about 0.7 to 1.2."""

_LARGEST, _BLOCK = 256, 128
"""Matrices with more than 256 rows and columns are split into blocks of 128 rows: the cost is cubic."""


class Muon(torch.optim.Optimizer):
    """An optimizer: orthogonalised momentum for parameters of two or more axes, AdamW for the others.

    Convolutions are treated as matrices (outputs, inputs x taps).

    Args:
        params: all parameters.
        lr: learning rate of matrices: the spectral norm of an update, times sqrt(outputs / inputs) if that
            exceeds 1.
        adam_lr: learning rate of AdamW; a schedule scales both rates.
        momentum: decay of the momentum of matrices.
        betas: decay rates of AdamW.
        weight_decay: decoupled weight decay of all parameters.
        plain: matrices that AdamW updates too, so without orthogonalising their momentum.
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
        # Orthogonalisation is only defined for matrices; biases and norms are vectors.
        for p in params:
            (others if p.ndim < 2 or id(p) in exempt else matrices).append(p)
        groups = (
            {"params": matrices, "lr": lr, "momentum": momentum, "orthogonal": True},
            {"params": others, "lr": adam_lr, "betas": list(betas), "orthogonal": False},
        )
        super().__init__([g for g in groups if g["params"]], {"weight_decay": weight_decay, "eps": 1e-8})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient; ``closure`` must be None."""
        assert closure is None
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                # Decoupled decay shrinks the weights directly and does not pass through the momentum.
                torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
                if group["orthogonal"]:
                    self._orthogonal(params, lr=group["lr"], momentum=group["momentum"])
                else:
                    self._adam(params, lr=group["lr"], betas=group["betas"], eps=group["eps"])

    def _orthogonal(self, params: list[Tensor], *, lr: float, momentum: float) -> None:
        grads = [p.grad for p in params if p.grad is not None]
        averages = [self._average(p, "momentum") for p in params]
        torch._foreach_lerp_(averages, grads, 1 - momentum)
        # Nesterov momentum: the gradient counts once more than it does in the average.
        updates = torch._foreach_lerp(grads, averages, momentum)
        # Matrices of one shape are iterated in a batch, which saves most kernel launches on a GPU.
        by_shape: dict[torch.Size, list[int]] = {}
        for number, p in enumerate(params):
            by_shape.setdefault(p.shape, []).append(number)
        for shape, numbers in by_shape.items():
            # Inputs vary fastest, which makes this a view of channels-last weights, the faster layout on a
            # CPU.
            matrices = torch.stack([updates[number].movedim(1, -1).flatten(1) for number in numbers])
            blocks = matrices.split(_BLOCK, dim=1) if min(matrices.shape[1:]) > _LARGEST else [matrices]
            rows = torch.cat([orthogonalised(block) for block in blocks], dim=1)
            directions = rows.view(len(numbers), shape[0], *shape[2:], shape[1]).movedim(-1, 2)
            torch._foreach_add_(
                [params[number] for number in numbers],
                list(directions.unbind()),
                # Tall matrices get larger steps, so that an update changes each output about equally.
                alpha=-lr * max(1.0, shape[0] / shape[1]) ** 0.5,
            )

    def _adam(self, params: list[Tensor], *, lr: float, betas: Sequence[float], eps: float) -> None:
        grads = [p.grad for p in params if p.grad is not None]
        means, squares = ([self._average(p, name) for p in params] for name in ("mean", "square"))
        steps = []
        for p in params:
            self.state[p]["step"] = self.state[p].get("step", 0) + 1
            steps.append(self.state[p]["step"])
        fast, slow = betas
        torch._foreach_lerp_(means, grads, 1 - fast)
        torch._foreach_lerp_(squares, torch._foreach_pow(grads, 2), 1 - slow)
        # Both averages start at zero and are too small at first; these quotients correct that (Kingma and Ba
        # 2015).
        denominators = torch._foreach_div(squares, [1 - slow**step for step in steps])
        torch._foreach_sqrt_(denominators)
        torch._foreach_add_(denominators, eps)
        torch._foreach_mul_(denominators, [1 - fast**step for step in steps])
        torch._foreach_addcdiv_(params, means, denominators, value=-lr)

    def _average(self, p: Tensor, name: str) -> Tensor:
        """The running average ``name`` in the optimizer state of ``p``; zeros when it is first used."""
        state = self.state[p]
        if name not in state:
            state[name] = torch.zeros_like(p)
        average: Tensor = state[name]
        return average


def orthogonalised(matrix: Tensor, steps: int = 5) -> Tensor:
    """Bring all singular values of matrices (..., R, C) near 1, by ``steps`` Newton-Schulz steps.

    A step multiplies the matrix by a polynomial of its Gram matrix. Iterating only the Gram matrix, of the
    smaller of R rows and C columns, is a fifth of the work for the wide matrices of convolutions.
    """
    linear, cubic, quintic = NEWTON_SCHULZ
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = (matrix.mT if tall else matrix).float()
    # The iteration converges for singular values up to 1, which the Frobenius norm bounds.
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
