"""Reads the queue of jobs, by connections of its own that wait for no change."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ..storage.files import ParsedJson
from .queue_file import connected
from .stored_job import COLUMNS, Job, State, job_in

_GLANCE_S: Final = 0.1
"""Seconds that all answers may wait for a file that another program locks."""


class JobReads:
    """The jobs in the SQLite file ``path``, which must be there. Any thread may call the methods.

    Raises OSError if it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        # A connection serves one thread at a time. Those of changes wait for the disk, and lists and specs
        # may be long: who asks for a state waits for neither.
        self._asking, self._listing, self._glancing = (threading.Lock() for _ in range(3))
        self._states, self._lists = connected(path), connected(path)
        self._glances = connected(path, wait_s=_GLANCE_S)

    def close(self) -> None:
        with self._asking, self._listing, self._glancing:
            self._states.close()
            self._lists.close()
            self._glances.close()

    def get(self, job_id: str) -> Job | None:
        """The job with this id; None if there is none."""
        with self._asking:
            return _one(self._states, job_id)

    def glance(self, job_id: str) -> Job | None:
        """The job with this id, as :meth:`get`, for the event loop, where all answers wait for this one.

        Raises sqlite3.OperationalError after a tenth of a second if another program locks the file.
        """
        with self._glancing:
            return _one(self._glances, job_id)

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


def _one(connection: sqlite3.Connection, job_id: str) -> Job | None:
    rows = connection.execute(f"SELECT {COLUMNS} FROM jobs WHERE id = ?", (job_id,)).fetchall()
    return job_in(rows[0]) if rows else None
