"""Reads the queue of jobs, by connections of its own that wait for no change."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path

from ..storage.files import ParsedJson
from .queue_file import connected
from .stored_job import COLUMNS, Job, State, job_in


class JobReads:
    """The jobs in the SQLite file ``path``, which must be there. Any thread may call the methods.

    Raises OSError if it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        # A connection serves one thread at a time. Those of changes wait for the disk, and lists and specs
        # may be long: who asks for a state waits for neither.
        self._asking, self._listing = threading.Lock(), threading.Lock()
        self._states, self._lists = connected(path), connected(path)

    def close(self) -> None:
        with self._asking, self._listing:
            self._states.close()
            self._lists.close()

    def get(self, job_id: str) -> Job | None:
        """The job with this id; None if there is none."""
        with self._asking:
            rows = self._states.execute(f"SELECT {COLUMNS} FROM jobs WHERE id = ?", (job_id,)).fetchall()
        return job_in(rows[0]) if rows else None

    def spec(self, job_id: str) -> ParsedJson | None:
        """What the job with this id is to make; None if there is no such job."""
        with self._listing:
            rows = self._lists.execute("SELECT spec FROM jobs WHERE id = ?", (job_id,)).fetchall()
        spec: ParsedJson | None = json.loads(rows[0]["spec"]) if rows else None
        return spec

    def jobs(
        self, *, states: Sequence[State] = tuple(State), before: int | None = None, most: int = 100
    ) -> list[Job]:
        """At most ``most`` jobs in any of ``states``, the newest first.

        ``before`` is the number of a job: only older ones are returned; None returns the newest.
        """
        marks = ", ".join("?" * len(states))
        with self._listing:
            rows = self._lists.execute(
                f"SELECT {COLUMNS} FROM jobs WHERE state IN ({marks}) AND number < ? "
                "ORDER BY number DESC LIMIT ?",
                (*states, 2**62 if before is None else before, most),
            ).fetchall()
        return [job_in(row) for row in rows]
