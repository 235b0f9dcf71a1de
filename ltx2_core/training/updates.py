"""Gradient accumulation, clipping and optimizer steps of a training run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .loop import Schedule
from .processes import Processes, is_split, local
from .rounding import Copies

ALONE = Processes()


@dataclass(kw_only=True)
class Updates:
    """Turns losses of micro-batches into optimizer steps.

    ``accumulation`` micro-batches make one step; the gradient is their mean. ``schedule`` is the factor on
    the learning rate of each step, ``clip`` the largest norm of the gradient, 0 for no limit.
    """

    optimizer: torch.optim.Optimizer
    schedule: Schedule
    accumulation: int = 1
    clip: float = 1.0
    processes: Processes = ALONE
    """With several, each adds ``accumulation`` micro-batches of its own."""
    copies: Copies | None = None
    """Float32 copies that the optimizer changes, if it does not change the parameters themselves."""
    streams: Mapping[str, Sequence[nn.Parameter]] = field(default_factory=dict)
    """Parameters by stream, whose gradients' norms are measured apart."""
    norms: dict[str, float] = field(default_factory=dict, init=False)
    """Norm of the gradient of each stream in the last step, before clipping."""
    step: int = 0
    """Optimizer steps that are done."""
    _collected: int = field(default=0, init=False)
    _rates: list[float] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self._set_rate()

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def add(self, loss: Tensor, *, now: bool = False) -> float | None:
        """Add the gradient of a micro-batch's mean ``loss``, and do an optimizer step if it was the last.

        With ``now`` the step is done in any case, as the official trainer does at the end of the dataset.
        Returns the norm of the gradient before clipping, None if no step was done. Raises FloatingPointError
        if that norm is not finite; the parameters are then those of the step before.
        """
        (loss / self.accumulation).backward()
        self._collected += 1
        if self._collected < self.accumulation and not now:
            return None
        if self.copies is not None:
            self.copies.take_gradients()
        self.processes.average(self.parameters)
        self.norms = {
            stream: math.sqrt(self.processes.square_norm(p.grad for p in own if p.grad is not None))
            for stream, own in self.streams.items()
        }
        norm = self._norm()
        if not math.isfinite(norm):
            # Clipping divided the gradient by this norm: a step would write NaN into every parameter.
            self.optimizer.zero_grad(set_to_none=True)
            self._collected = 0
            raise FloatingPointError(
                f"the norm of the gradient is {norm} at step {self.step + 1}: the run is as it was last "
                "saved; lower learning_rate"
            )
        self.optimizer.step()
        if self.copies is not None:
            self.copies.write_back()
        self.optimizer.zero_grad(set_to_none=True)
        self._collected = 0
        self.step += 1
        self._set_rate()
        return norm

    def resume(self, step: int) -> None:
        """Continue after ``step`` optimizer steps."""
        self.step = step
        self._set_rate()

    def _norm(self) -> float:
        """Clip the gradient; returns its norm before."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if any(is_split(gradient) for gradient in gradients):
            norm = math.sqrt(self.processes.square_norm(gradients))
            # The small number is that of torch's clipping.
            if self.clip and norm > self.clip:
                torch._foreach_mul_([local(g) for g in gradients], self.clip / (norm + 1e-6))
            return norm
        return float(nn.utils.clip_grad_norm_(self.parameters, self.clip or float("inf")))

    def _set_rate(self) -> None:
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            # From the initial rate, because factors on the current one would accumulate.
            group["lr"] = rate * self.schedule(self.step)


def adamw(
    parameters: Iterable[nn.Parameter], *, learning_rate: float, weight_decay: float = 0.01
) -> torch.optim.AdamW:
    """AdamW with the settings of the official trainer: betas 0.9 and 0.999, eps 1e-8."""
    return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay)
