"""How many tokens go through a layer at once; fewer from where memory has run out.

Letters: T tokens of a stream.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from ..out_of_memory import is_out_of_memory, release_cached

Step = Callable[[slice | None], None]
"""Computes and stores what belongs to a run of tokens, all of them for None, or stores nothing and raises."""

SMALLEST = 64
"""Fewer tokens than this save nothing: weights and whole streams are larger by then."""

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Chunks:
    """``tokens`` is the most at once, None for all. It is halved when memory runs out and stays so."""

    tokens: int | None = None

    def each(self, count: int, step: Step) -> None:
        """Call ``step`` for all of ``count`` tokens, run by run, each again in halves if it has no room."""
        start = 0
        while start < count:
            part = self._part(start, count)
            if self._fits(step, part, count):
                start = count if part is None else part.stop

    def whole(self, count: int, step: Step) -> bool:
        """Call ``step`` for all tokens at once if they may and can; whether it is done."""
        return self._part(0, count) is None and self._fits(step, None, count)

    def _part(self, start: int, count: int) -> slice | None:
        if self.tokens is None or (start == 0 and self.tokens >= count):
            return None
        return slice(start, min(start + self.tokens, count))

    def _fits(self, step: Step, part: slice | None, count: int) -> bool:
        size = count if part is None else part.stop - part.start
        if size <= SMALLEST:
            step(part)
            return True
        try:
            step(part)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        else:
            return True
        # The error is gone here, and with it the tensors that its traceback held.
        self.tokens = max(SMALLEST, (size + 1) // 2)
        release_cached()
        _log.warning("memory ran out for %d tokens at once; going on with %d", size, self.tokens)
        return False
