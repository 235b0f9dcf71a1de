"""Learning-rate schedules by name, with the values of the official trainer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .loop import Schedule

RESTART_FLOOR = 5e-5
"""The learning rate at the end of each period of ``cosine_with_restarts``, even if it starts below."""


def schedule_of(name: str, steps: int, *, learning_rate: float, warmup: int = 0) -> Schedule:
    """Build the schedule ``name`` for ``steps`` optimizer steps: step (from 0) -> factor on the rate.

    ``learning_rate`` is the highest rate, on which the floor of "cosine_with_restarts" depends. In the first
    ``warmup`` steps the factor rises linearly; with 0 it does not. Raises ValueError for an unknown name.
    """
    if name not in SCHEDULES:
        raise ValueError(f"schedule {name!r} is unknown: use one of {', '.join(SCHEDULES)}")
    shape = SCHEDULES[name](steps, learning_rate)

    def factor(step: int) -> float:
        return shape(step) * min(1.0, (step + 1) / (warmup + 1))

    return factor


def _constant(_steps: int, _rate: float) -> Schedule:
    return lambda _step: 1.0


def _linear(steps: int, _rate: float) -> Schedule:
    return lambda step: 1 - 0.9 * min(step, steps) / steps


def _cosine(steps: int, _rate: float) -> Schedule:
    return lambda step: (1 + math.cos(math.pi * step / steps)) / 2


def _restarts(steps: int, rate: float) -> Schedule:
    period = max(1, steps // 4)
    floor = RESTART_FLOOR / rate

    def factor(step: int) -> float:
        return floor + (1 - floor) * (1 + math.cos(math.pi * (step % period) / period)) / 2

    return factor


def _polynomial(steps: int, _rate: float) -> Schedule:
    return lambda step: 1 - min(step, steps) / steps


def _step(steps: int, _rate: float) -> Schedule:
    period = max(1, steps // 2)
    return lambda step: 0.1 ** (step // period)


SCHEDULES: Mapping[str, Callable[[int, float], Schedule]] = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "cosine_with_restarts": _restarts,
    "polynomial": _polynomial,
    "step": _step,
}
"""Name -> (steps, learning rate) -> schedule. ``linear`` falls to a tenth, ``polynomial`` to 0."""
