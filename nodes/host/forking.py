"""Guidance passes that share their first blocks: one saves its hidden states, a later one resumes from them.

The conditional pass saves them before the first block that a later, perturbed pass changes, up to which both
passes are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...ltx2_core.transformer import Hidden

FORK = "ltx2_fork"
"""Among the options of a call: the :class:`Fork` of a call that saves hidden states, or the :class:`Late` of
one that resumes from them."""


@dataclass
class Fork:
    """Saves the hidden states of a guidance pass before block ``at``, so that a later pass can resume there.

    ``source`` is the index of the pass to save among those that ComfyUI evaluates in one call. ``saved`` are
    its (video, audio) tokens; None before the call, and after a pass has resumed from them.
    """

    at: int
    source: int
    saved: Hidden | None = None

    def passing(self, run: Callable[..., Hidden], order: Sequence[int], samples: int) -> Hidden:
        """Run the network once and save the hidden states of the pass ``source`` on the way.

        ``run`` calls the network, whose result is returned. ``order`` has the index of each guidance pass in
        this run, in the order of the batch, and ``samples`` is the batch size of all of them together.
        ComfyUI divides a call when memory is short, so the pass ``source`` may not be in this run; then
        nothing is saved.
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
    """Runs a guidance pass that resumes from hidden states which an earlier pass of the same step has saved.

    ``fork`` holds these states, and the number of the block before which they were saved. If it holds none,
    or those of another batch size, the pass runs from the first block.
    """

    fork: Fork

    def start(self, samples: int) -> int:
        """Index of the first block to run for a batch of ``samples``.

        It is that of the block before which an earlier pass saved its hidden states, or 0 if no states of
        this batch size were saved.
        """
        saved = self.fork.saved
        count = 0 if saved is None else len(next(t for t in saved if t is not None))
        return self.fork.at if count == samples else 0

    def run(self, run: Callable[..., Hidden], samples: int) -> Hidden:
        """Call ``run``, which evaluates the network, so that it resumes from the saved hidden states.

        An earlier guidance pass has saved them. ``samples`` is the batch size; without saved states
        of this size all blocks run. The saved states can be used once, because blocks may write into them.
        """
        start, saved = self.start(samples), self.fork.saved
        # Freeing them first lets the blocks reuse the memory.
        self.fork.saved = None
        return run(resume=(start, saved)) if start else run()


def _samples(hidden: Hidden, samples: slice) -> Hidden:
    x, y = (None if t is None else t[samples].clone() for t in hidden)
    return x, y
