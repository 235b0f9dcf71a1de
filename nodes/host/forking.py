"""The perturbed pass of the guider goes on from what the conditional one is at the block that it perturbs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ...ltx2_core.transformer import Hidden

FORK = "ltx2_fork"
"""Among the options of a call: the :class:`Fork` that it passes or starts at."""


@dataclass
class Fork:
    """A block ``at`` which two passes part, and what the first of them is there, once it has come by.

    ``source`` is the number of that pass among those of the host's call.
    """

    at: int
    source: int
    kept: Hidden | None = None

    def passing(self, run: Callable[..., Any], order: Sequence[int], samples: int) -> Any:
        """One call of the network by ``run``, whose ``samples`` are of the passes ``order``."""
        if self.source not in order:
            return run()
        batch = samples // len(order)
        first = list(order).index(self.source) * batch
        hidden = run(until=self.at)
        # A copy, since blocks write into what they are given.
        self.kept = _rows(hidden, slice(first, first + batch))
        return run(resume=(self.at, hidden))


@dataclass
class Late:
    """A pass that starts where ``fork`` is; a whole one if that was not passed by as many samples."""

    fork: Fork

    def start(self, samples: int) -> int:
        """The block to start at."""
        kept = self.fork.kept
        known = 0 if kept is None else len(next(t for t in kept if t is not None))
        return self.fork.at if known == samples else 0

    def run(self, run: Callable[..., Any], samples: int) -> Any:
        """One call of the network by ``run``, which may write into what was kept."""
        start, kept = self.start(samples), self.fork.kept
        self.fork.kept = None
        return run(resume=(start, kept)) if start else run()


def _rows(hidden: Hidden, rows: slice) -> Hidden:
    x, y = (None if t is None else t[rows].clone() for t in hidden)
    return x, y
