"""Does work ahead of the one who needs it, in threads, and hands it out in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def in_order(work: Callable[[_In], _Out], items: Sequence[_In], workers: int) -> Iterator[Callable[[], _Out]]:
    """For each of ``items``, in their order, a function that returns its ``work`` or raises its error.

    So many ``workers`` begin with those that come next; at most that many results wait. With 0 the work is
    done when it is asked for.
    """
    if workers < 1:
        yield from (partial(work, item) for item in items)
        return
    # Decoders and tensor operations run without the lock of the interpreter, so threads suffice.
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[_Out]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > workers:
                    yield waiting.popleft().result
            while waiting:
                yield waiting.popleft().result
        finally:
            for future in waiting:
                future.cancel()
