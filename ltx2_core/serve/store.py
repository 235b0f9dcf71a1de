"""A durable queue of jobs in SQLite: every change of a state is one transaction, and a restart loses none.

Times are seconds since 1970 (UTC). The methods may be called from any thread.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from ..storage.files import JsonObject
from .job_reads import JobReads
from .queue_file import open_queue, transaction
from .stored_job import COLUMNS, ClaimedJob, ClientFull, Job, QueueFull, Quota, State, job_in

MOST_ATTEMPTS = 3
"""How often a job is started; one that ends the process each time would otherwise stop all jobs behind it."""


class JobStore(JobReads):
    """The table of jobs in the SQLite file ``path``, which is created if it is missing.

    Raises ValueError if the file is no such table or is that of a newer version, and OSError if it cannot be
    opened.
    """

    def __init__(self, path: Path) -> None:
        # Each method that changes jobs takes a lock, so that one connection serves all threads.
        self._lock = threading.RLock()
        self._db = open_queue(path)
        super().__init__(path)

    def close(self) -> None:
        super().close()
        with self._lock:
            self._db.close()

    def add(
        self, kind: str, spec: JsonObject, *, job_id: str | None = None, quota: Quota | None = None
    ) -> Job:
        """Add a job to the end of the queue and return it.

        ``job_id`` is its id, None for a new one. Raises :class:`QueueFull` or :class:`ClientFull` if there
        are as many jobs as ``quota`` allows; None allows any number.
        """
        new, limit = job_id or str(uuid4()), quota or Quota()
        with self._transaction():
            if limit.queue is not None and self._count(State.QUEUED) >= limit.queue:
                raise QueueFull
            if limit.own is not None and self._unfinished(limit.client) >= limit.own:
                raise ClientFull
            self._db.execute(
                "INSERT INTO jobs (id, kind, state, created, spec, model, client) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    *(new, kind, State.QUEUED, time.time()),
                    *(json.dumps(spec), str(spec.get("model", "")), limit.client),
                ),
            )
            return self._one(new)

    def ids(self, *states: State) -> set[str]:
        """The ids of all jobs in any of ``states``."""
        marks = ", ".join("?" * len(states))
        with self._lock:
            rows = self._db.execute(f"SELECT id FROM jobs WHERE state IN ({marks})", states).fetchall()
        return {row["id"] for row in rows}

    def is_needed(self, name: str) -> bool:
        """Whether the spec of a job that has not ended mentions the file called ``name``."""
        with self._lock:
            rows = self._db.execute(
                "SELECT 1 FROM jobs WHERE state IN (?, ?) AND instr(spec, ?) LIMIT 1",
                (State.QUEUED, State.RUNNING, name),
            ).fetchall()
        return bool(rows)

    def ended(self) -> list[tuple[str, float]]:
        """(id, time of its end) of all jobs that have ended, the one that ended first in front."""
        with self._lock:
            rows = self._db.execute(
                "SELECT id, finished FROM jobs WHERE finished IS NOT NULL ORDER BY finished, number"
            ).fetchall()
        return [(row["id"], row["finished"]) for row in rows]

    def counts(self) -> dict[State, int]:
        """How many jobs are in each state."""
        with self._lock:
            rows = self._db.execute("SELECT state, COUNT(*) AS count FROM jobs GROUP BY state").fetchall()
        found = {row["state"]: row["count"] for row in rows}
        return {state: found.get(state.value, 0) for state in State}

    def claim(self, *, waited_s: float = 0.0) -> ClaimedJob | None:
        """Turn the first queued job to running and return it; None if there is none.

        It must have waited ``waited_s`` seconds.
        """
        # A clock that was set back must not make jobs wait.
        before = time.time() - waited_s if waited_s else float("inf")
        with self._transaction():
            row = self._db.execute(
                "SELECT id, spec FROM jobs WHERE state = ? AND created <= ? ORDER BY number LIMIT 1",
                (State.QUEUED, before),
            ).fetchone()
            if row is None:
                return None
            self._db.execute(
                "UPDATE jobs SET state = ?, started = COALESCE(started, ?), attempts = attempts + 1 "
                "WHERE id = ?",
                (State.RUNNING, time.time(), row["id"]),
            )
            return ClaimedJob(**vars(self._one(row["id"])), spec=json.loads(row["spec"]))

    def succeed(self, job_id: str, outcome: JsonObject) -> None:
        """End a running job; ``outcome`` is what it made. Raises LookupError if it is not running."""
        self._end(job_id, State.SUCCEEDED, outcome=json.dumps(outcome))

    def fail(self, job_id: str, error: str) -> None:
        """End a running job because of ``error``. Raises LookupError if it is not running."""
        self._end(job_id, State.FAILED, error=error)

    def canceled(self, job_id: str) -> None:
        """End a running job that was told to stop. Raises LookupError if it is not running."""
        self._end(job_id, State.CANCELED)

    def release(self, job_id: str) -> None:
        """Put a running job back to its place in the queue, as if it had not been started this time.

        One that has been told to stop is canceled.
        """
        with self._transaction():
            self._db.execute(
                "UPDATE jobs SET state = ?, finished = ? WHERE id = ? AND state = ? AND cancel = 1",
                (State.CANCELED, time.time(), job_id, State.RUNNING),
            )
            self._db.execute(
                "UPDATE jobs SET state = ?, attempts = attempts - 1 WHERE id = ? AND state = ?",
                (State.QUEUED, job_id, State.RUNNING),
            )

    def retry(self, job_id: str, error: str) -> None:
        """Put a running job back to its place in the queue, because the process that ran it is gone.

        One that has been told to stop is canceled, and one that has been started ``MOST_ATTEMPTS`` times
        fails with ``error``.
        """
        now = time.time()
        with self._transaction():
            self._db.execute(
                "UPDATE jobs SET state = ?, finished = ? WHERE id = ? AND state = ? AND cancel = 1",
                (State.CANCELED, now, job_id, State.RUNNING),
            )
            self._db.execute(
                "UPDATE jobs SET state = ?, finished = ?, error = ? "
                "WHERE id = ? AND state = ? AND attempts >= ?",
                (State.FAILED, now, error, job_id, State.RUNNING, MOST_ATTEMPTS),
            )
            self._db.execute(
                "UPDATE jobs SET state = ? WHERE id = ? AND state = ?",
                (State.QUEUED, job_id, State.RUNNING),
            )

    def cancel(self, job_id: str) -> Job | None:
        """Cancel a queued job, or note that a running one must stop; returns the job, None without one.

        A job that has ended stays as it is.
        """
        with self._transaction():
            self._db.execute(
                "UPDATE jobs SET state = ?, finished = ? WHERE id = ? AND state = ?",
                (State.CANCELED, time.time(), job_id, State.QUEUED),
            )
            self._db.execute("UPDATE jobs SET cancel = 1 WHERE id = ? AND state = ?", (job_id, State.RUNNING))
        return self.get(job_id)

    def delete(self, job_id: str) -> bool:
        """Remove a job that has ended; returns whether there was one."""
        with self._transaction():
            removed = self._db.execute("DELETE FROM jobs WHERE id = ? AND finished IS NOT NULL", (job_id,))
            return removed.rowcount > 0

    def recover(self) -> list[Job]:
        """Requeue the jobs that were running when the process ended, and return them.

        Those that had been told to stop are canceled, and those that have been started ``MOST_ATTEMPTS``
        times fail. It is called once, before a worker starts.
        """
        now = time.time()
        with self._transaction():
            self._db.execute(
                "UPDATE jobs SET state = ?, finished = ? WHERE state = ? AND cancel = 1",
                (State.CANCELED, now, State.RUNNING),
            )
            self._db.execute(
                "UPDATE jobs SET state = ?, finished = ?, error = ? WHERE state = ? AND attempts >= ?",
                (
                    *(State.FAILED, now),
                    f"the server ended {MOST_ATTEMPTS} times while it ran this job",
                    *(State.RUNNING, MOST_ATTEMPTS),
                ),
            )
            rows = self._db.execute(
                f"SELECT {COLUMNS} FROM jobs WHERE state = ?", (State.RUNNING,)
            ).fetchall()
            self._db.execute("UPDATE jobs SET state = ? WHERE state = ?", (State.QUEUED, State.RUNNING))
        return [job_in(row) for row in rows]

    def _end(
        self, job_id: str, state: State, *, outcome: str | None = None, error: str | None = None
    ) -> None:
        with self._transaction():
            changed = self._db.execute(
                "UPDATE jobs SET state = ?, finished = ?, outcome = ?, error = ? WHERE id = ? AND state = ?",
                (state, time.time(), outcome, error, job_id, State.RUNNING),
            )
            if changed.rowcount != 1:
                raise LookupError(f"job {job_id} is not running")

    def _count(self, state: State) -> int:
        row = self._db.execute("SELECT COUNT(*) FROM jobs WHERE state = ?", (state,)).fetchone()
        return int(row[0])

    def _unfinished(self, client: str) -> int:
        row = self._db.execute(
            "SELECT COUNT(*) FROM jobs WHERE state IN (?, ?) AND client = ?",
            (State.QUEUED, State.RUNNING, client),
        ).fetchone()
        return int(row[0])

    def _one(self, job_id: str) -> Job:
        return job_in(self._db.execute(f"SELECT {COLUMNS} FROM jobs WHERE id = ?", (job_id,)).fetchone())

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """A context whose changes are stored all, at its end, or if it raises not at all."""
        with self._lock, transaction(self._db):
            yield
