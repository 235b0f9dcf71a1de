"""Shared blocks of guidance passes: the perturbed one resumes from states of the conditional one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...ltx2_core.transformer import Hidden

FORK = "ltx2_fork"
"""Among the options of a call: the :class:`Fork` of a call that saves hidden states, or the :class:`Late` of
one that resumes from them."""


@dataclass
class Fork:
    """The hidden states of a guidance pass before block ``at``, saved for another pass.

    ``source`` is the number of the pass among those of the host's call.
    """

    at: int
    source: int
    saved: Hidden | None = None

    def passing(self, run: Callable[..., Hidden], order: Sequence[int], samples: int) -> Hidden:
        """Run one call of the network, which has ``samples`` of the passes ``order``, and save the states.

        The host divides its call by memory, so that the source may be missing from this one.
        """
        if self.source not in order:
            return run()
        # A call holds all samples of one pass before those of the next.
        batch = samples // len(order)
        first = list(order).index(self.source) * batch
        hidden = run(until=self.at)
        # Blocks write into their input, so a copy is saved.
        self.saved = _samples(hidden, slice(first, first + batch))
        return run(resume=(self.at, hidden))


@dataclass
class Late:
    """A pass that resumes from the states that ``fork`` saved.

    It runs from the first block where the states are missing or of another number of samples.
    """

    fork: Fork

    def start(self, samples: int) -> int:
        """Index of the first block to run for ``samples`` samples: that of the fork, or 0 without states."""
        saved = self.fork.saved
        count = 0 if saved is None else len(next(t for t in saved if t is not None))
        return self.fork.at if count == samples else 0

    def run(self, run: Callable[..., Hidden], samples: int) -> Hidden:
        """Run one call of the network from the saved states, and forget them: blocks may write into them."""
        start, saved = self.start(samples), self.fork.saved
        # Freeing them first lets the blocks reuse the memory.
        self.fork.saved = None
        return run(resume=(start, saved)) if start else run()


def _samples(hidden: Hidden, samples: slice) -> Hidden:
    x, y = (None if t is None else t[samples].clone() for t in hidden)
    return x, y
