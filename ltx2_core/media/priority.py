"""Keeps encoders from taking the processors for themselves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def kept_priority() -> Iterator[None]:
    """A context in which an encoder is opened: all threads have the caller's scheduling after it.

    SVT-AV1 gives its threads and the thread that opens it the highest real-time priority where the process
    is root's, as in containers. Whatever that thread starts later inherits it, and a server answers nobody
    while one of them computes. Nothing is done where the system is not Linux.
    """
    if not hasattr(os, "sched_getscheduler"):
        yield
        return
    policy, param = os.sched_getscheduler(0), os.sched_getparam(0)
    before = _policies()
    try:
        yield
    finally:
        for thread, now in _policies().items():
            if now not in (policy, before.get(thread)):
                # The thread may have ended since.
                with suppress(OSError):
                    os.sched_setscheduler(thread, policy, param)


def _policies() -> dict[int, int]:
    """The scheduling policy of each thread of this process, by its number."""
    policies = {}
    with suppress(OSError):
        for folder in Path("/proc/self/task").iterdir():
            with suppress(OSError):
                policies[int(folder.name)] = os.sched_getscheduler(int(folder.name))
    return policies
