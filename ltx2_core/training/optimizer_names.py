"""Names and options of optimizers, apart from the optimizers, so that the help of commands needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

OPTIMIZERS = ("adamw", "adamw8bit", "adafactor", "muon", "prodigy")


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """Options that several optimizers share; Adafactor and Muon's matrices have no betas."""

    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
