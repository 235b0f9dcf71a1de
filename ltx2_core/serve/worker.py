"""The one thread that runs jobs, one after the other, and stops them when it is told to."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from ..out_of_memory import is_out_of_memory
from ..run.progress import Stopped
from ..storage.files import JsonObject
from .files import StateFolder, expire
from .progress import Board, Tracker
from .runner import Runner
from .store import ClaimedJob, Job, JobStore, State

_log = logging.getLogger(__name__)

_EXPIRY_S = 60.0
"""Seconds between two looks for results that have expired."""
_RETRY_S = 1.0
"""Seconds between two tries to store the end of a job, such as while the disk is full."""


@dataclass(frozen=True, kw_only=True)
class Retention:
    """How long results stay: ``age_s`` seconds after the end of their job, and ``most_bytes`` in all.

    ``job_s`` is how many seconds one job may run.
    """

    age_s: float = 7 * 86400.0
    most_bytes: int = 50 * 2**30
    job_s: float = 3600.0


class Worker(threading.Thread):
    """Runs the queued jobs of ``store`` by ``runner`` and writes their progress on ``board``.

    The thread ends by itself after an error that leaves the GPU unusable, with ``broken`` True: the jobs
    behind it wait for another process.
    """

    def __init__(
        self,
        store: JobStore,
        folder: StateFolder,
        runner: Runner,
        board: Board,
        retention: Retention,
    ) -> None:
        super().__init__(name="ltx2 worker", daemon=True)
        self._store, self._folder, self._runner, self._board = store, folder, runner, board
        self._retention = retention
        self.broken = False
        self._wake = threading.Event()
        self._draining, self._halted = threading.Event(), threading.Event()

    def wake(self) -> None:
        """Have the thread look for a new job at once."""
        self._wake.set()

    def drain(self) -> None:
        """Let the running job end, and begin no other; the thread ends then. Queued jobs stay queued."""
        self._draining.set()
        self._wake.set()

    def halt(self) -> None:
        """Stop the running job too, which goes back to the queue with what it has saved."""
        self._halted.set()
        self.drain()

    def run(self) -> None:
        next_expiry = 0.0
        while not self._draining.is_set() and not self.broken:
            self._wake.clear()
            try:
                if time.monotonic() >= next_expiry:
                    next_expiry = time.monotonic() + _EXPIRY_S
                    self._expire()
                job = self._store.claim()
            except (sqlite3.Error, OSError) as error:
                # A full disk must not end the thread, as nothing would run after space is made.
                _log.error("the queue cannot be read or written: %s", error)
                time.sleep(_RETRY_S)
                continue
            if job is None:
                self._wake.wait(timeout=max(0.1, next_expiry - time.monotonic()))
            else:
                self._run(job)

    def _expire(self) -> None:
        retention = self._retention
        for job_id in expire(
            self._store, self._folder, age_s=retention.age_s, most_bytes=retention.most_bytes
        ):
            _log.info("job %s has expired", job_id)

    def _run(self, job: ClaimedJob) -> None:
        deadline = time.monotonic() + self._retention.job_s

        def stop() -> bool:
            late = time.monotonic() > deadline
            return late or self._halted.is_set() or self._board.is_canceled(job.id)

        tracker = Tracker(lambda snapshot: self._board.set(job.id, snapshot), stop)
        _log.info("job %s begins", job.id)
        try:
            outcome = self._runner.run(job, tracker)
        except Stopped:
            self._stopped(job, late=time.monotonic() > deadline)
        # Whatever one job raises, the next one has to run.
        except Exception as error:  # noqa: BLE001
            text = str(error) or type(error).__name__
            # With %r: a client's prompt in it may have lines that look like others of the log.
            expected = isinstance(error, ValueError | OSError)
            _log.warning("job %s failed: %r", job.id, text[:500], exc_info=not expected)
            self.broken = leaves_device_unusable(error)
            self._end(job, lambda: self._store.fail(job.id, text))
        else:
            self._succeeded(job, outcome)
        self._board.forget(job.id)

    def _succeeded(self, job: Job, outcome: JsonObject) -> None:
        self._end(job, lambda: self._store.succeed(job.id, outcome), results=True)

    def _stopped(self, job: Job, *, late: bool) -> None:
        if self._board.is_canceled(job.id):
            self._end(job, lambda: self._store.canceled(job.id))
        elif late:
            text = f"Inference timed out after {self._retention.job_s:g} seconds"
            self._end(job, lambda: self._store.fail(job.id, text))
        else:
            self._release(job)

    def _release(self, job: Job) -> None:
        try:
            self._store.release(job.id)
            found = self._store.get(job.id)
        except sqlite3.Error as error:
            # After a restart the job is found running, and is taken up again.
            _log.error("job %s cannot be put back to the queue: %s", job.id, error)
            return
        # A client may have told it to stop at the same moment.
        if found is not None and found.state is State.CANCELED:
            self._folder.remove(job.id)
        _log.info("job %s is %s", job.id, "gone" if found is None else found.state.value)

    def _end(self, job: Job, change: Callable[[], None], *, results: bool = False) -> None:
        """Store the end of a job by ``change``, again and again until it can be stored.

        Its files are removed, but with ``results`` not those that it has made.
        """
        while True:
            try:
                change()
                break
            except sqlite3.Error as error:
                _log.error("the end of job %s cannot be stored: %s", job.id, error)
                if self._draining.is_set():
                    # After a restart the job is found running, and is finished from its files.
                    return
                time.sleep(_RETRY_S)
        if results:
            self._folder.finish(job.id)
        else:
            self._folder.remove(job.id)
        _log.info("job %s ended", job.id)


def leaves_device_unusable(error: BaseException) -> bool:
    """Whether every later call of the GPU in this process will fail too, as after an illegal memory access.

    Running out of memory is no such error.
    """
    if is_out_of_memory(error) or not isinstance(error, RuntimeError):
        return False
    return "CUDA error" in str(error)
