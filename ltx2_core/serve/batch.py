"""Runs a batch of jobs by the durable queue: what is done stays done, and the same call resumes the rest."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import sleep
from typing import Final

from ..storage.files import JsonObject
from ..storage.private import locked, private_folder
from .batch_jobs import BatchJob
from .checking import check_job
from .expiry import Retention
from .runner import JobRunner
from .service import Service, Settings
from .stored_job import Job, State

RESULTS: Final = "results.jsonl"
_LOOK_S: Final = 0.2


class Batch:
    """The jobs whose clips go to ``folder``; ``settings`` say how they run, with :func:`state_of` as state.

    ``runners`` make them; None is one in this process.
    """

    def __init__(
        self,
        folder: Path,
        jobs: Sequence[BatchJob],
        settings: Settings,
        runners: Sequence[JobRunner] | None = None,
    ) -> None:
        self._folder, self._jobs, self._runners = folder, {job.id: job for job in jobs}, runners
        self._settings = settings

    def check(self) -> None:
        """Check all jobs before any runs. Raises ValueError that names the line of the first wrong one."""
        from .models import Checkers

        checkers = Checkers(self._settings.models, self._settings.execution, float("inf"))
        for job in self._jobs.values():
            if job.spec.model not in self._settings.models:
                known = ", ".join(self._settings.models)
                raise ValueError(f"line {job.line}: there is no model {job.spec.model!r}: use one of {known}")
            try:
                check_job(checkers, job.spec)
            except (ValueError, TypeError, ArithmeticError, OSError) as error:
                raise ValueError(f"line {job.line}: {error}") from error

    def run(self, on_change: Callable[[int, float], None] | None = None) -> list[JsonObject]:
        """Run the jobs that have not succeeded yet, and return the result of each job, in their order.

        ``on_change`` is called with the number of jobs that have ended and the fraction of the running ones.
        If the call is interrupted, the running jobs store what they have sampled.
        """
        with self._service() as service:
            self._queue(service)
            service.start()
            told: dict[str, JsonObject] = {}
            try:
                while len(told) < len(self._jobs):
                    # Looked at before the jobs, so that none that has ended in between is missed.
                    alive = any(worker.is_alive() for worker in service.workers)
                    for job in self._ended(service, told):
                        told[job.id] = self._result(service, job)
                        self._append(told[job.id])
                    if on_change is not None:
                        on_change(len(told), self._running(service))
                    if not alive and len(told) < len(self._jobs):
                        raise OSError("no process can run jobs any more: see the log above")
                    if len(told) < len(self._jobs):
                        sleep(_LOOK_S)
            finally:
                service.drain(0)
        return [told[job_id] for job_id in self._jobs]

    @contextmanager
    def _service(self) -> Iterator[Service]:
        with locked(private_folder(self._settings.state)):
            service = Service(self._settings, self._runners)
            try:
                yield service
            finally:
                service.close()

    def _queue(self, service: Service) -> None:
        """Add the jobs that are not in the queue, and again those that have failed."""
        (self._folder / RESULTS).unlink(missing_ok=True)
        for job in self._jobs.values():
            before = service.store.get(job.id)
            if before is not None and before.state.ended and not self._has_clip(service, job, before):
                service.folder.remove(job.id)
                service.store.delete(job.id)
                before = None
            if before is None:
                service.store.add("job", job.spec.json(), job_id=job.id)
        # Those of lines that are no longer there.
        for queued in service.store.jobs(states=(State.QUEUED,), most=2**31):
            if queued.id not in self._jobs:
                service.cancel(queued.id)

    def _has_clip(self, service: Service, job: BatchJob, stored: Job) -> bool:
        """Whether a job has succeeded and its clip is still there."""
        if stored.outcome is None:
            return False
        made = service.folder.results / stored.outcome["clips"][0]["file"]
        return (self._folder / job.file).exists() or made.exists()

    def _ended(self, service: Service, told: dict[str, JsonObject]) -> Iterator[Job]:
        for job_id in self._jobs.keys() - told.keys():
            job = service.store.get(job_id)
            if job is not None and job.state.ended:
                yield job

    def _running(self, service: Service) -> float:
        snapshots = [service.board.get(job_id) for job_id in self._jobs]
        return sum(one.fraction for one in snapshots if one is not None)

    def _result(self, service: Service, job: Job) -> JsonObject:
        """Move the clip of an ended job to its place; returns the line of its result."""
        own = self._jobs[job.id]
        line: JsonObject = {"line": own.line, "name": own.name, "state": job.state.value}
        if job.outcome is None:
            return {**line, "error": job.error}
        clip = dict(job.outcome["clips"][0])
        made, target = service.folder.results / clip["file"], self._folder / own.file
        # It was moved before if an earlier run has made it.
        if made.exists():
            os.replace(made, target)  # noqa: PTH105 a folder of EXR images too
        return {**line, **clip, "file": own.file, "what": own.what}

    def _append(self, line: JsonObject) -> None:
        with (self._folder / RESULTS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def state_of(folder: Path) -> Path:
    """The state folder of a batch whose clips go to ``folder``."""
    return folder / ".ltx2-batch"


def forever(job_s: float) -> Retention:
    """Results that never expire, of jobs that may run ``job_s`` seconds."""
    return Retention(age_s=float("inf"), most_bytes=2**62, job_s=job_s)
