"""How many tokens go through a layer at once; fewer once memory has run out.

Letters: T tokens of a stream.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from ..out_of_memory import is_out_of_memory, release_cached

Step = Callable[[slice | None], None]
"""Computes and stores the results of a run of tokens, None for all; if it raises, nothing is stored."""

SMALLEST = 64
"""Fewer tokens than this save nothing: weights and whole streams are larger than their activations."""

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Chunks:
    """Computes at most ``tokens`` tokens at a time; None is all tokens at once.

    When memory runs out, ``tokens`` becomes half of the number that was tried, and is not raised again.
    """

    tokens: int | None = None

    def each(self, count: int, step: Step) -> None:
        """Call ``step`` with consecutive slices that cover tokens 0 to ``count`` - 1.

        A slice has at most ``tokens`` tokens. If all may be computed at once, ``step`` is called once, with
        None. A slice that runs out of memory is tried again, then in halves; at 64 tokens or fewer the
        out-of-memory error is raised.
        """
        start = 0
        while start < count:
            part = self._part(start, count)
            if self._fits(step, part, count):
                start = count if part is None else part.stop

    def whole(self, count: int, step: Step) -> bool:
        """Call ``step(None)``, which computes all ``count`` tokens, if ``tokens`` and memory allow it.

        Returns True if ``step`` finished. Returns False if ``tokens`` is below ``count``, without a call, or
        if memory ran out twice; ``tokens`` is then lowered. With 64 tokens or fewer the out-of-memory error
        is raised.
        """
        return self._part(0, count) is None and self._fits(step, None, count)

    def _part(self, start: int, count: int) -> slice | None:
        if self.tokens is None or (start == 0 and self.tokens >= count):
            return None
        return slice(start, min(start + self.tokens, count))

    def _fits(self, step: Step, part: slice | None, count: int) -> bool:
        size = count if part is None else part.stop - part.start
        # Here an error is passed on, since smaller chunks would not make room either.
        if size <= SMALLEST:
            step(part)
            return True
        # The second attempt has the memory that the first one freed, and the same result.
        for _ in range(2):
            if _succeeds(step, part):
                return True
            # Here the error is gone, and with it the tensors that its traceback held.
            release_cached()
        self.tokens = max(SMALLEST, (size + 1) // 2)
        _log.warning("memory ran out for %d tokens at once; continuing with %d", size, self.tokens)
        return False


def _succeeds(step: Step, part: slice | None) -> bool:
    """Call ``step`` with ``part``; False if memory ran out. Other errors are raised."""
    try:
        step(part)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


class Whole(Chunks):
    """Computes all tokens at once; if memory runs out the error is raised, without a second attempt."""

    def each(self, count: int, step: Step) -> None:
        step(None)

    def whole(self, count: int, step: Step) -> bool:
        step(None)
        return True
