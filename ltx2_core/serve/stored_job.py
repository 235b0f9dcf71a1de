"""Jobs as they are stored: their states and values, and what is refused for a new one."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from ..storage.files import ParsedJson


class State(str, Enum):
    """The state of a job: queued -> running -> succeeded, failed or canceled."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def ended(self) -> bool:
        """Whether a job in this state stays in it."""
        return self not in (State.QUEUED, State.RUNNING)


class QueueFull(Exception):
    """Raised for a new job when the queue has its largest number of jobs."""


class ClientFull(Exception):
    """Raised for a new job when its client has as many as it may have."""


@dataclass(frozen=True, kw_only=True)
class Quota:
    """How many jobs may wait, and how many of one ``client`` may wait or run; None is any number."""

    client: str = ""
    queue: int | None = None
    own: int | None = None


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job as it is stored.

    ``number`` counts jobs in the order in which they were added. ``kind`` is the route that it came by:
    "inference" or "job". ``model`` is the id of its model, ``outcome`` what was made (None before the end),
    and ``error`` why it failed. ``attempts`` is how often it was started, and ``cancel`` whether a running
    job has been told to stop.
    """

    number: int
    id: str
    kind: str
    state: State
    created: float
    started: float | None
    finished: float | None
    attempts: int
    cancel: bool
    model: str
    outcome: ParsedJson | None
    error: str | None


@dataclass(frozen=True, kw_only=True)
class ClaimedJob(Job):
    """A job that is to be run; ``spec`` says what to make."""

    spec: ParsedJson


COLUMNS: Final = (
    "number, id, kind, state, created, started, finished, attempts, cancel, model, outcome, error"
)
"""Columns of the table but the spec, which may have megabytes and is no part of the state of a job."""


def job_in(row: sqlite3.Row) -> Job:
    """The job of a row with ``COLUMNS``."""
    values: dict[str, Any] = {name: row[name] for name in row.keys()}  # noqa: SIM118
    values["state"], values["cancel"] = State(values["state"]), bool(values["cancel"])
    values["outcome"] = None if values["outcome"] is None else json.loads(values["outcome"])
    return Job(**values)
