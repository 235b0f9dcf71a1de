"""The service without HTTP: settings, the queue, the models and the worker in one value."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from threading import Event

from ..run.execution import Execution
from ..storage.files import JsonObject
from .expiry import Expiry, Retention
from .fetching import Fetcher, NotFetched
from .files import StateFolder
from .meters import Meters
from .models import Checkers
from .pool import Holding
from .progress import Board
from .replica import ReplicaPlan
from .roots import Roots
from .runner import JobRunner
from .served_model import ServedModel
from .store import JobStore
from .stored_job import Job, Quota, State
from .uploads import NoRoom, Uploads, suffix_of
from .worker import Worker

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The largest requests and the longest queue that the service takes.

    ``body_bytes`` is the largest body of a request, ``upload_bytes`` that of a file that is sent, ``queue``
    how many jobs may wait, ``per_client`` how many of one client may wait or run (None: any number), and
    ``work`` the largest width x height x frames x steps of one job, in pixels (None: what the memory plan of
    its model allows).
    """

    body_bytes: int = 64 * 2**20
    upload_bytes: int = 1 * 2**30
    queue: int = 100
    work: float | None = None
    per_client: int | None = None


class Draining(Exception):
    """Raised for a new job when the service is about to end."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the service runs: its private folder, its models and what clients may do.

    ``inputs`` and ``loras`` are folders of which clients may name files, ``url_hosts`` the hosts from which
    they may have files fetched. ``models`` are by id, and
    ``holding`` says which of them stay loaded.
    """

    state: Path
    models: Mapping[str, ServedModel]
    execution: Execution
    inputs: tuple[Path, ...] = ()
    loras: tuple[Path, ...] = ()
    url_hosts: tuple[str, ...] = ()
    holding: Holding = field(default_factory=Holding)
    limits: Limits = field(default_factory=Limits)
    retention: Retention = field(default_factory=Retention)

    def replica(self) -> ReplicaPlan:
        """What a process needs to run jobs of this service."""
        return ReplicaPlan(
            state=self.state.resolve(),
            models=tuple(self.models.values()),
            execution=self.execution,
            holding=self.holding,
        )


class Service:
    """The queue, the models and the workers of a server. Jobs of an earlier process are taken up again.

    Each of ``runners`` makes one job at a time; None is one in this process. The caller must hold the lock of
    the folder ``settings.state``. Raises ValueError for a folder that is not this user's, and for a damaged
    queue.
    """

    def __init__(self, settings: Settings, runners: Sequence[JobRunner] | None = None) -> None:
        self.settings = settings
        self.folder = StateFolder(settings.state)
        self.store = JobStore(self.folder.database)
        self.uploads = Uploads(self.folder.uploads, self.folder.unfinished, settings.retention.most_bytes)
        self.board, self.meters = Board(), Meters()
        self.fetcher = Fetcher(settings.url_hosts, settings.limits.upload_bytes)
        self.roots = Roots(
            inputs=settings.inputs,
            loras=settings.loras,
            uploads=self.folder.uploads,
            fetch=self._fetched if self.fetcher else None,
        )
        self.checkers = Checkers(settings.models, settings.execution, settings.limits.work)
        self.draining = Event()
        """Set when the service takes no new jobs, because it is about to end."""
        self.expiry = Expiry(self.store, self.folder, settings.retention)
        self.workers = [
            Worker(
                self.store,
                self.folder,
                runner,
                board=self.board,
                meters=self.meters,
                job_s=settings.retention.job_s,
            )
            for runner in (runners or (settings.replica().runner(),))
        ]
        for job in self.store.recover():
            _log.info("job %s is resumed", job.id)
        self.folder.remove_orphans(
            unfinished=self.store.ids(State.QUEUED), succeeded=self.store.ids(State.SUCCEEDED)
        )

    def _fetched(self, url: str) -> Path:
        """Fetch a file, which becomes an upload. Raises :class:`NotFetched`."""
        with TemporaryFile(dir=self.folder.path) as file:
            name = self.fetcher.fetch(url, file)
            size = file.tell()
            file.seek(0)
            try:
                return self.folder.uploads / self.uploads.add(file, size, suffix_of(name))
            except NoRoom:
                raise NotFetched("the uploads of this server take all their room: try again later") from None

    def start(self) -> None:
        self.expiry.start()
        for worker in self.workers:
            worker.start()

    def add(self, kind: str, spec: JsonObject, *, job_id: str | None = None, client: str = "") -> Job:
        """Add a job of ``client`` to the queue; raises ``QueueFull``, ``ClientFull`` or :class:`Draining`."""
        if self.draining.is_set():
            raise Draining
        limits = self.settings.limits
        quota = Quota(client=client, queue=limits.queue, own=limits.per_client)
        job = self.store.add(kind, spec, job_id=job_id, quota=quota)
        for worker in self.workers:
            worker.wake()
        return job

    def cancel(self, job_id: str) -> Job | None:
        """Cancel a job that waits, or stop one that runs; returns it, None if there is none."""
        job = self.store.cancel(job_id)
        # A mark for a job that does not run would stay on the board.
        if job is not None and job.cancel and job.state is State.RUNNING:
            self.board.cancel(job_id)
            for worker in self.workers:
                worker.look()
        elif job is not None and job.state is State.CANCELED:
            self.folder.remove(job_id)
        return job

    def drain(self, seconds: float) -> None:
        """Take no new jobs, and wait until the running ones have ended, at most ``seconds``.

        Jobs that take longer go back to the queue with what they have saved, for the next start.
        """
        self.draining.set()
        deadline = time.monotonic() + seconds
        for worker in self.workers:
            worker.drain()
        for worker in filter(Worker.is_alive, self.workers):
            worker.join(max(0.0, deadline - time.monotonic()))
        self.halt()
        for worker in filter(Worker.is_alive, self.workers):
            worker.join()

    def halt(self) -> None:
        """Stop the running jobs, which go back to the queue."""
        for worker in self.workers:
            worker.halt()

    def wait(self) -> None:
        """Wait until all workers have ended, which they do by themselves if no job can run any more."""
        for worker in self.workers:
            worker.join()

    def close(self) -> None:
        self.expiry.end()
        self.store.close()
