"""Encodes in a thread of its own, so that the next frames are decoded while the last ones are encoded."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType

import torch

Check = Callable[[], None]
"""Raises if the encoder must stop."""
Job = Callable[[Check], int]
"""Encodes some frames, calls its argument before each of them, and returns how many are written so far."""
OnWritten = Callable[[int], None]
"""Called with the number of frames written so far."""
Timed = Callable[[str], AbstractContextManager[None]]
"""Makes, from the name of a part of the work such as "encode", a context that counts its block's seconds."""

WAITING = 1
"""Jobs that may wait while another one runs: with the frames being decoded, three chunks are in memory."""
_POLL_S = 0.1
"""Seconds after which a wait looks again: Windows does not end a wait for Ctrl-C."""


class EncoderThread:
    """A context manager whose thread runs jobs one after another, in the order in which they come.

    ``on_written`` is called in the thread of the caller with what each job returns, in the same order.
    ``timed("encode")`` counts the seconds for which the caller waits. An error of a job ends the thread, and
    is raised in the caller by the next call or at the end of the block. At the end of a block without an
    error all jobs are finished; an error in the block stops the thread before its next frame. Without
    ``own_thread`` each job runs in the thread of the caller.
    """

    def __init__(
        self,
        *,
        on_written: OnWritten | None = None,
        timed: Timed | None = None,
        own_thread: bool = True,
    ) -> None:
        self._on_written = on_written or (lambda frames: None)
        self._timed = timed or (lambda name: nullcontext())
        self._changed = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._written: deque[int] = deque()
        self._busy = self._ended = self._stopped = False
        self._error: BaseException | None = None
        # A daemon, so that no failure can keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="ltx2 encoder", daemon=True)
        self._own_thread = own_thread

    def __enter__(self) -> EncoderThread:
        if self._own_thread:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._own_thread:
            return
        try:
            if error is None:
                self._wait(lambda: not self._jobs and not self._busy)
        finally:
            self._end()
        # What the encoder raised came first, and may be why the block failed: a full disk, for example.
        if isinstance(error, Exception) and self._error is not None and error is not self._error:
            raise self._error

    def submit(self, job: Job) -> None:
        """Run ``job`` after all others; waits while ``WAITING`` others wait. Raises what a job has raised."""
        if not self._own_thread:
            with self._timed("encode"):
                written = job(self._check)
            self._on_written(written)
            return
        self._wait(lambda: len(self._jobs) < WAITING)
        with self._changed:
            self._jobs.append(job)
            self._changed.notify_all()

    def _wait(self, ready: Callable[[], bool]) -> None:
        """Wait until ``ready`` and report what is written meanwhile; raise what a job has raised."""
        while True:
            with self._timed("encode"), self._changed:
                if not (self._written or self._error or ready()):
                    self._changed.wait(_POLL_S)
                written = self._written.popleft() if self._written else None
                error, done = self._error, ready()
            if written is not None:
                self._on_written(written)
            elif error is not None:
                raise error
            elif done:
                return

    def _end(self) -> None:
        """Stop the thread before its next frame and wait for it, since the file is closed after that."""
        with self._changed:
            self._ended = self._stopped = True
            self._jobs.clear()
            self._changed.notify_all()
        again: KeyboardInterrupt | None = None
        while self._thread.is_alive():
            try:
                self._thread.join(_POLL_S)
            except KeyboardInterrupt as interrupt:
                again = interrupt
        if again is not None:
            raise again

    def _check(self) -> None:
        if self._stopped:
            raise _Stopped

    def _run(self) -> None:
        # Frames that a host decodes in this mode may be changed in place only within it.
        with torch.inference_mode():
            while self._run_next():
                pass

    def _run_next(self) -> bool:
        """Wait for a job and run it; False if there will be no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._ended)
            if not self._jobs:
                return False
            job, self._busy = self._jobs.popleft(), True
            self._changed.notify_all()
        written, error = 0, None
        try:
            written = job(self._check)
        # Whatever it is, the caller has to raise it.
        except BaseException as raised:  # noqa: BLE001
            error = raised
        with self._changed:
            self._busy = False
            if error is None:
                self._written.append(written)
            elif not isinstance(error, _Stopped):
                self._error = error
            self._changed.notify_all()
        return error is None


class _Stopped(Exception):
    """Ends a job whose frames are not wanted any more."""
