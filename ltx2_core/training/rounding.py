"""Training in bfloat16: AdamW that rounds at random, and float32 copies that an optimizer changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .optimizer_names import OptimizerOptions


def round_at_random(values: Tensor, generator: torch.Generator) -> Tensor:
    """Round float32 ``values`` to bfloat16, up or down with chances that make the mean exact.

    Rounding to nearest loses every change below 2^-9 of a weight, which most steps of training are (Gupta et
    al., 2015). ``generator`` is on the device of ``values``.
    """
    noise = torch.randint(0, 1 << 16, values.shape, generator=generator, device=values.device)
    bits = values.view(torch.int32)
    # The upper 16 bits are the bfloat16; a random number below one of its steps is added before they are cut.
    cut = (bits + noise.to(torch.int32)) & -65536
    return torch.where(values.isfinite(), cut.view(torch.float32), values).to(torch.bfloat16)


class RoundedAdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov and Hutter, 2019) for bfloat16 parameters, which computes in float32.

    Averages are float32; weights are rounded at random, by generators that follow from the number of the step
    and of the parameter, so that a resumed run rounds alike.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], options: OptimizerOptions) -> None:
        super().__init__(groups, {"betas": options.betas, "eps": 1e-8, "weight_decay": options.weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient; ``closure`` must be None."""
        assert closure is None
        parameters = [(group, p) for group in self.param_groups for p in group["params"]]
        for number, (group, p) in enumerate(parameters):
            if p.grad is not None:
                self._update(p, p.grad.float(), group, number)

    def _update(self, p: Tensor, grad: Tensor, group: Mapping[str, Any], number: int) -> None:
        state = self.state[p]
        if not state:
            state["step"] = 0
            state["mean"], state["square"] = (torch.zeros_like(p, dtype=torch.float32) for _ in range(2))
        state["step"] += 1
        (fast, slow), step = group["betas"], state["step"]
        mean: Tensor = state["mean"].lerp_(grad, 1 - fast)
        square: Tensor = state["square"].lerp_(grad.square(), 1 - slow)
        denominator = (square / (1 - slow**step)).sqrt_().add_(group["eps"])
        weight = p.float() * (1 - group["lr"] * group["weight_decay"])
        weight.addcdiv_(mean, denominator, value=-group["lr"] / (1 - fast**step))
        if p.dtype != torch.bfloat16:
            p.copy_(weight)
            return
        generator = torch.Generator(p.device).manual_seed((step << 20) + number)
        p.copy_(round_at_random(weight, generator))


class Copies:
    """Float32 copies of parameters, which an optimizer changes in their place.

    They may be on another device, such as the CPU, where the state of the optimizer then is too.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], device: torch.device) -> None:
        self.originals = dict(parameters)
        self.copies = {
            name: nn.Parameter(p.detach().to(device, torch.float32, copy=True))
            for name, p in parameters.items()
        }

    def of(self, parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
        """The copies of ``parameters``, in their order."""
        names = {id(p): name for name, p in self.originals.items()}
        return [self.copies[names[id(p)]] for p in parameters]

    def take_gradients(self) -> None:
        """Move the gradients of the originals to the copies."""
        for name, original in self.originals.items():
            copy = self.copies[name]
            copy.grad = None if original.grad is None else original.grad.to(copy.device, copy.dtype)
            original.grad = None

    @torch.no_grad()
    def write_back(self) -> None:
        """Write the copies into the originals, rounded to their number format."""
        for name, original in self.originals.items():
            original.copy_(self.copies[name])
