"""The progress that a run reports, and the exception that stops it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ..storage.finite import is_finite
from ..types import AVLatent


class Stopped(Exception):
    """Raised when the caller stopped the run: its ``stop`` callback returned True."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Reports that ``step`` of ``steps`` steps of ``stage`` are done.

    ``stage`` is a name such as "text" or "stage 1". While sampling, ``x0`` is the current estimate of the
    clean latents; None otherwise.
    """

    stage: str
    step: int
    steps: int
    x0: AVLatent | None = None


OnStep = Callable[[Progress], None]
Stop = Callable[[], bool]
Item = TypeVar("Item")


class Run:
    """The callbacks of a run: ``on_step`` receives each :class:`Progress`; ``stop`` returns whether to stop.

    None as ``on_step`` reports nothing; None as ``stop`` never stops.
    """

    def __init__(self, on_step: OnStep | None = None, stop: Stop | None = None) -> None:
        self._on_step = on_step
        self._stop = stop

    def report(self, stage: str, step: int, steps: int, x0: AVLatent | None = None) -> None:
        self.check()
        if self._on_step is not None:
            self._on_step(Progress(stage=stage, step=step, steps=steps, x0=x0))

    def report_estimate(
        self, stage: str, step: int, steps: int, x0: AVLatent, where: Callable[[], str] | None = None
    ) -> None:
        """Report that sampling step ``step`` of ``steps`` is done; ``x0`` is its estimate of clean latents.

        Raises ValueError if the estimate of the first step holds NaN or infinite values, and Stopped if the
        caller stops the run. ``where`` is called for the message of the ValueError; it returns the block of
        the network in which such values first appear.
        """
        # Damaged values appear in the first step; a check in each would synchronise with the GPU every time.
        if step == 1:
            check_estimate(stage, step, steps, x0, where)
        self.report(stage, step, steps, x0)

    def check(self) -> None:
        if self._stop is not None and self._stop():
            raise Stopped("the run was stopped")


def check_estimate(
    stage: str, step: int, steps: int, x0: AVLatent, where: Callable[[], str] | None = None
) -> None:
    """Raise ValueError if ``x0``, an estimate of the clean latents, holds NaN or infinite values.

    The message names ``stage``, ``step``, the stream (video or audio), and what ``where`` returns: the block
    of the network in which such values first appear. None leaves the block out.
    """
    streams = (("video", x0.video), ("audio", x0.audio))
    broken = [name for name, latent in streams if latent is not None and not is_finite(latent)]
    if broken:
        began = "" if where is None else f", first {where()}"
        raise ValueError(
            f"{stage}, step {step} of {steps}: the estimate of {' and '.join(broken)} holds NaN or infinite "
            f"values{began}, so the run was stopped. The weights in the files are finite: look for a LoRA "
            "strength that is too high, extreme guidance, or a number format that overflows (use bfloat16)"
        )


def listed(name: str, items: Sequence[Item]) -> Sequence[Item]:
    """Return ``items``; raises TypeError, which names the argument ``name``, unless it is a list or tuple."""
    if not isinstance(items, (list, tuple)):
        raise TypeError(f"{name}={items!r:.60} must be a list")
    return items


def check_functions(**functions: object) -> None:
    """Raise TypeError, which names the argument, for a value that is neither None nor callable."""
    for name, function in functions.items():
        if function is not None and not callable(function):
            raise TypeError(f"{name}={function!r:.60} must be a function")
