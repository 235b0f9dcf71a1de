"""Measures how many seconds a run spends on each part of its work, such as loading and sampling."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

PARTS = ("load", "text", "inputs", "sampling", "decode", "encode")
"""The parts of a run, in the order in which they are reported."""


class Clock:
    """Seconds that a run has spent on each part of the work, such as "load" or "sampling".

    If one part is timed within another, its seconds count for the inner part alone.
    """

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._seconds: dict[str, float] = {}
        self._stages: dict[str, float] = {}
        self._within: list[tuple[str, str | None]] = []
        self._since = self._start

    @contextmanager
    def timed(self, part: str, *, stage: str | None = None) -> Iterator[None]:
        """A context that adds the seconds of its block to those of ``part``, one of ``PARTS``.

        ``stage`` is the sampling stage that they are of, such as "1", or None for none.

        Do not use it around the ``yield`` of a generator: the time of the generator's caller would be
        counted.
        """
        self._count()
        self._within.append((part, stage))
        try:
            yield
        finally:
            self._count()
            self._within.pop()

    @property
    def total(self) -> float:
        """Seconds since this object was made."""
        return time.perf_counter() - self._start

    def seconds(self) -> Mapping[str, float]:
        """Seconds by part, in the order of ``PARTS``; without parts that took no time."""
        return {part: self._seconds[part] for part in PARTS if part in self._seconds}

    def stages(self) -> Mapping[str, float]:
        """Seconds by sampling stage, in the order in which the stages ran; all are seconds of "sampling"."""
        return dict(self._stages)

    def _count(self) -> None:
        now = time.perf_counter()
        if self._within:
            part, stage = self._within[-1]
            self._seconds[part] = self._seconds.get(part, 0.0) + now - self._since
            if stage is not None:
                self._stages[stage] = self._stages.get(stage, 0.0) + now - self._since
        self._since = now
