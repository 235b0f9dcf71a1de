"""ComfyUI's progress bar, the line of text under a running node, and the stop button."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import comfy.model_management
import comfy.utils

EVERY_S = 0.5
"""Least seconds between two lines of text, so that fast work does not flood the page."""

_part: ContextVar[str] = ContextVar("part", default="")


def check_interrupted() -> None:
    """Raise ComfyUI's interrupt if the user pressed stop."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def count_bar(total: int, what: str) -> Callable[[int], None]:
    """Make a callback to call with the number of steps, frames or layers that are done, of ``total``.

    The callback moves the node's progress bar and writes a line such as "sampling step: 3 of 20, 40 s left"
    under the node, which begins with ``what``.
    """
    bar, text = comfy.utils.ProgressBar(total), ProgressText(total, what)

    def on_count(done: int) -> None:
        bar.update_absolute(done, total)
        text(done)

    return on_count


@contextmanager
def part_of_job(name: str) -> Iterator[None]:
    """A context in which lines of progress under the node begin with ``name``, such as "window 2 of 6"."""
    token = _part.set(name)
    try:
        yield
    finally:
        _part.reset(token)


class ProgressText:
    """Writes progress as text under the running node, at most twice a second.

    ``total`` is the number of steps and ``what`` their name; call it with the number that are done. Work that
    ends within half a second writes nothing.
    """

    def __init__(self, total: int, what: str) -> None:
        self._total, self._what = total, what
        self._start = self._written = time.monotonic()
        self._first: tuple[int, float] | None = None

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if self._first is None:
            # The first step loads and compiles, so that it says nothing of the speed of the others.
            self._first = done, now
        if now - self._written >= EVERY_S or (done == self._total and self._written > self._start):
            self._written = now
            show_text(self._line(done, now))

    def _line(self, done: int, now: float) -> str:
        part = _part.get()
        head = f"{part}, {self._what}" if part else self._what
        if done == self._total:
            return f"{head}: {done} in {_duration(now - self._start)}"
        counted, begun = self._first or (0, self._start)
        left = ""
        if done > counted:
            left = f", {_duration((now - begun) / (done - counted) * (self._total - done))} left"
        return f"{head}: {done} of {self._total}{left}"


def show_text(text: str) -> None:
    """Write ``text`` under the running node; does nothing outside ComfyUI's server."""
    try:
        # A script may use these modules without the host's server.
        from comfy_execution.utils import get_executing_context
        from server import PromptServer
    except ImportError:
        return
    context, server = get_executing_context(), getattr(PromptServer, "instance", None)
    if context is not None and server is not None:
        server.send_progress_text(text, context.node_id)


def _duration(seconds: float) -> str:
    """Format seconds, such as "8 s", "2 min 5 s" or "1 h 10 min"."""
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
