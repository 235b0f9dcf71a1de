"""Builds an optimizer by name, from torch or from a library that is installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from .eight_bit import AdamW8bit
from .optimisers import Muon
from .optimizer_names import OPTIMIZERS, OptimizerOptions
from .rounding import RoundedAdamW

_LIBRARIES: Mapping[str, str] = {"prodigy": "prodigyopt"}
"""Optimizer -> the library that has it."""


@dataclass(frozen=True)
class Group:
    """Parameters with one learning rate."""

    parameters: Sequence[nn.Parameter]
    learning_rate: float


def check_optimizer(name: str, *, groups: int = 1) -> None:
    """Raise ValueError for an unknown optimizer, a missing library, and for rates that it cannot have."""
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer={name!r} must be one of {', '.join(OPTIMIZERS)}")
    library = _LIBRARIES.get(name)
    if library is not None and find_spec(library) is None:
        raise ValueError(f"optimizer={name} needs {library}: pip install {library}, or use adamw")
    if name == "adafactor" and not hasattr(torch.optim, "Adafactor"):
        raise ValueError("optimizer=adafactor needs torch 2.5 or newer, or use adamw")
    if name == "muon" and groups > 1:
        raise ValueError("optimizer=muon has one learning rate: leave audio_learning_rate out")


def optimizer_of(
    name: str, groups: Sequence[Group], options: OptimizerOptions, *, rounded: bool = False
) -> torch.optim.Optimizer:
    """Build the optimizer ``name``; ``rounded`` is AdamW for bfloat16 weights with random rounding.

    Raises ValueError as :func:`check_optimizer` does.
    """
    used = [group for group in groups if group.parameters]
    check_optimizer(name, groups=len(used))
    build = RoundedAdamW if rounded else _BUILDERS[name]
    listed = [{"params": list(group.parameters), "lr": group.learning_rate} for group in used]
    optimizer: torch.optim.Optimizer = build(listed, options)
    return optimizer


def _adamw(groups: list[dict[str, Any]], options: OptimizerOptions) -> torch.optim.Optimizer:
    # Settings of the official trainer, with torch's eps of 1e-8.
    return torch.optim.AdamW(groups, betas=options.betas, weight_decay=options.weight_decay)


def has_fused_8bit() -> bool:
    """Whether adamw8bit is that of bitsandbytes; else it is the one of this package."""
    return find_spec("bitsandbytes") is not None


def _adamw8bit(groups: list[dict[str, Any]], options: OptimizerOptions) -> torch.optim.Optimizer:
    if not has_fused_8bit():
        return AdamW8bit(groups, options)
    library: Any = import_module("bitsandbytes")
    optimizer: torch.optim.Optimizer = library.optim.AdamW8bit(
        groups, betas=options.betas, weight_decay=options.weight_decay
    )
    return optimizer


def _adafactor(groups: list[dict[str, Any]], options: OptimizerOptions) -> torch.optim.Optimizer:
    return torch.optim.Adafactor(groups, weight_decay=options.weight_decay)


def _muon(groups: list[dict[str, Any]], options: OptimizerOptions) -> torch.optim.Optimizer:
    [group] = groups
    return Muon(
        group["params"],
        lr=group["lr"],
        adam_lr=group["lr"],
        betas=options.betas,
        weight_decay=options.weight_decay,
    )


def _prodigy(groups: list[dict[str, Any]], options: OptimizerOptions) -> torch.optim.Optimizer:
    library: Any = import_module("prodigyopt")
    optimizer: torch.optim.Optimizer = library.Prodigy(
        groups,
        betas=options.betas,
        weight_decay=options.weight_decay,
        use_bias_correction=True,
        # Without it the estimated rate grows during the warm-up, whose steps are small on purpose.
        safeguard_warmup=True,
    )
    return optimizer


_BUILDERS: Mapping[str, Callable[[list[dict[str, Any]], OptimizerOptions], torch.optim.Optimizer]] = {
    "adamw": _adamw,
    "adamw8bit": _adamw8bit,
    "adafactor": _adafactor,
    "muon": _muon,
    "prodigy": _prodigy,
}
