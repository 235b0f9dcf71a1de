"""Progress out of a run, the wish to stop in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..types import AVLatent


class Stopped(Exception):
    """The run was told to stop."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run is: ``step`` of ``steps`` are done in ``stage``; ``x0`` is the estimate while sampling."""

    stage: str
    step: int
    steps: int
    x0: AVLatent | None = None


OnStep = Callable[[Progress], None]
Stop = Callable[[], bool]


class Run:
    """Those who listen to a run, and who may stop it."""

    def __init__(self, on_step: OnStep | None = None, stop: Stop | None = None) -> None:
        self._on_step = on_step
        self._stop = stop

    def report(self, stage: str, step: int, steps: int, x0: AVLatent | None = None) -> None:
        self.check()
        if self._on_step is not None:
            self._on_step(Progress(stage=stage, step=step, steps=steps, x0=x0))

    def check(self) -> None:
        if self._stop is not None and self._stop():
            raise Stopped("the run was stopped")
