"""A thread that takes jobs from the queue, has a runner make them, and stores how they ended."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from ..run.progress import Stopped
from ..storage.files import JsonObject
from .files import StateFolder
from .lost import CannotStart, JobFailed, ReplicaLost
from .meters import Meters
from .progress import Board, ClipMeter, Preview, Snapshot
from .replica import leaves_device_unusable
from .runner import JobRunner
from .store import JobStore
from .stored_job import ClaimedJob, Job

_log = logging.getLogger(__name__)

_IDLE_S = 5.0
"""Seconds between two looks for a job, if nothing wakes the thread."""
_RETRY_S = 1.0
"""Seconds between two tries to store the end of a job, such as while the disk is full."""


@dataclass(frozen=True)
class _JobReports:
    """What a runner reports of the job called ``job_id``, and when it must stop."""

    job_id: str
    board: Board
    meters: Meters
    stop: Callable[[], bool]

    def snapshot(self, snapshot: Snapshot) -> None:
        self.board.set(self.job_id, snapshot)

    def preview(self, preview: Preview) -> None:
        self.board.set_preview(self.job_id, preview)

    def finished(self, meter: ClipMeter) -> None:
        self.meters.add(meter)


class Worker(threading.Thread):
    """Runs the queued jobs of ``store`` by ``runner``, each at most ``job_s`` seconds.

    Progress goes to ``board`` and what clips took to ``meters``. The thread ends by itself if no job can run
    any more, because the GPU is unusable or no process can be started, with ``broken`` True: the jobs behind
    it wait for another server. At its end it closes the runner.
    """

    def __init__(
        self,
        store: JobStore,
        folder: StateFolder,
        runner: JobRunner,
        *,
        board: Board,
        meters: Meters,
        job_s: float,
    ) -> None:
        super().__init__(name="ltx2 worker", daemon=True)
        self._store, self._folder, self._runner, self._board = store, folder, runner, board
        self._meters, self._job_s = meters, job_s
        self.broken = False
        self._wake = threading.Event()
        self._draining, self._halted = threading.Event(), threading.Event()

    @property
    def pid(self) -> int | None:
        """The number of the process of this machine in which its jobs run; None if it has none of its own."""
        return self._runner.pid

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
        self.look()

    def look(self) -> None:
        """Have the runner look at once whether its job must stop."""
        self._runner.look()

    def run(self) -> None:
        try:
            self._work()
        finally:
            self._runner.close()

    def _work(self) -> None:
        while not self._draining.is_set() and not self.broken:
            self._wake.clear()
            try:
                job = self._store.claim(waited_s=self._runner.patience_s)
            except (sqlite3.Error, OSError) as error:
                # A full disk must not end the thread, as nothing would run after space is made.
                _log.error("the queue cannot be read or written: %s", error)
                time.sleep(_RETRY_S)
                continue
            if job is None:
                self._runner.idle()
                self._wake.wait(self._runner.patience_s or _IDLE_S)
            else:
                self._run(job)

    def _run(self, job: ClaimedJob) -> None:
        deadline = time.monotonic() + self._job_s

        def stop() -> bool:
            late = time.monotonic() > deadline
            return late or self._halted.is_set() or self._board.is_canceled(job.id)

        reports = _JobReports(job.id, self._board, self._meters, stop)
        _log.info("job %s begins", job.id)
        try:
            outcome = self._runner.run(job, reports)
        except Stopped:
            self._stopped(job, late=time.monotonic() > deadline)
        except ReplicaLost as error:
            self._again(job, str(error))
        except CannotStart as error:
            _log.error("no process can be started that runs jobs: %s", error)
            self.broken = True
            self._release(job)
        # Whatever one job raises, the next one has to run.
        except Exception as error:  # noqa: BLE001
            text = str(error) or type(error).__name__
            _log_failure(job, error, text)
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
            text = f"Inference timed out after {self._job_s:g} seconds"
            self._end(job, lambda: self._store.fail(job.id, text))
        else:
            self._release(job)

    def _again(self, job: Job, why: str) -> None:
        """Put a job back whose process is gone; after too many tries, or if it was told to stop, it ends."""
        _log.error("job %s: %s", job.id, why)
        self._back(job, lambda: self._store.retry(job.id, why))

    def _release(self, job: Job) -> None:
        self._back(job, lambda: self._store.release(job.id))

    def _back(self, job: Job, change: Callable[[], None]) -> None:
        try:
            change()
            found = self._store.get(job.id)
        except sqlite3.Error as error:
            # After a restart the job is found running, and is taken up again.
            _log.error("job %s cannot be put back to the queue: %s", job.id, error)
            return
        # A client may have told it to stop at the same moment.
        if found is not None and found.state.ended:
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


def _log_failure(job: Job, error: Exception, text: str) -> None:
    # With %r: a client's prompt in it may have lines that look like others of the log.
    told = "job %s failed: %r"
    if isinstance(error, JobFailed):
        _log.warning(told + "%s", job.id, text[:500], f"\n{error.trace}" if error.trace else "")
    else:
        _log.warning(told, job.id, text[:500], exc_info=not isinstance(error, ValueError | OSError))
