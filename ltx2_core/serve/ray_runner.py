"""Runs jobs on a Ray cluster: each runner has a replica, an actor with networks on a GPU of its own.

The queue stays with the server. Replicas read and write the state folder, which all machines must share; a
job whose replica is lost is begun again by another one, from the latents that were saved.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, Final

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayError

from ..run.progress import Stopped
from ..storage.files import JsonObject, ParsedJson
from .lost import CannotStart, ReplicaLost
from .progress import Reports
from .replica import ReplicaPlan, SentReports, received, run_job
from .runner import JobRunner
from .served_model import ServedModel
from .stored_job import ClaimedJob

_LOOK_S: Final = 0.2
"""Seconds between two looks at a replica."""
_IDLE_S: Final = 120.0
"""Seconds without a job after which a replica beyond the least number is freed."""
_PATIENCE_S: Final = 2.0
"""Seconds that a job must wait before another replica is started for it."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How many replicas there are: ``least`` stay loaded, and up to ``most`` while jobs wait.

    Each has ``gpus`` GPUs, 0 or 1.
    """

    least: int
    most: int
    gpus: int


def connect(address: str) -> None:
    """Connect to the cluster at ``address``: "auto" is the one of this machine, "local" starts one.

    Raises ConnectionError if there is none.
    """
    if address == "local":
        ray.init(include_dashboard=False, log_to_driver=False)
    else:
        ray.init(address=address, log_to_driver=False)


def runners(plan: ReplicaPlan, scale: Scale) -> Sequence[JobRunner]:
    """A runner for each replica that there may be at most."""
    return [RayRunner(plan, gpus=scale.gpus, spare=number >= scale.least) for number in range(scale.most)]


class RayRunner(JobRunner):
    """Runs jobs one at a time by an actor, which starts with the first of them and again after it was lost.

    A ``spare`` one starts only for a job that has waited, and frees its actor when no jobs come.
    """

    def __init__(self, plan: ReplicaPlan, *, gpus: int, spare: bool) -> None:
        self._plan, self._gpus, self._spare = plan, gpus, spare
        self._actor: Any = None
        self._used = time.monotonic()

    @property
    def patience_s(self) -> float:
        return _PATIENCE_S if self._spare and self._actor is None else 0.0

    def run(self, job: ClaimedJob, reports: Reports) -> JsonObject:
        try:
            self._start(reports)
            return self._followed(self._actor.run.remote(job.id, json.dumps(job.spec)), reports)
        except (RayActorError, OutOfMemoryError) as error:
            self.close()
            raise ReplicaLost(f"the replica of the job is lost: {error}") from error
        finally:
            self._used = time.monotonic()

    def idle(self) -> None:
        if self._spare and time.monotonic() - self._used > _IDLE_S:
            self.close()

    def close(self) -> None:
        actor, self._actor = self._actor, None
        if actor is not None:
            with suppress(RayError):
                ray.kill(actor)

    def _start(self, reports: Reports) -> None:
        """Start an actor if there is none, and wait until a machine has room for it."""
        if self._actor is None:
            self._actor = (
                ray.remote(_Replica)
                .options(
                    # One thread runs the job, and another one says how far it is.
                    max_concurrency=2,
                    num_cpus=1,
                    num_gpus=self._gpus,
                    memory=_bytes_of(self._plan),
                )
                .remote(self._plan)
            )
        ready = self._actor.pid.remote()
        while not ray.wait([ready], timeout=_LOOK_S)[0]:
            if reports.stop():
                self.close()
                raise Stopped("the job was stopped")
        try:
            ray.get(ready)
        except RayActorError as error:
            self.close()
            raise CannotStart(str(error)) from error

    def _followed(self, running: Any, reports: Reports) -> JsonObject:
        while True:
            ended, _ = ray.wait([running], timeout=_LOOK_S)
            # After the look, so that the last messages of a job that has ended are among them.
            for message in ray.get(self._actor.take.remote(reports.stop())):
                outcome = received(json.loads(message), reports)
                if outcome is not None:
                    return self._checked(running, outcome)
            if ended:
                ray.get(running)
                self.close()
                raise ReplicaLost("the replica ended the job without a result")

    def _checked(self, running: Any, outcome: JsonObject) -> JsonObject:
        """``outcome``, after the actor that can run no other job is freed."""
        if not ray.get(running):
            self.close()
        return outcome


class _Replica:
    """The actor: runs a job in one thread, and hands out what it reports in another one."""

    def __init__(self, plan: ReplicaPlan) -> None:
        self._runner = plan.runner()
        self._messages: deque[str] = deque()
        self._stop = Event()

    def pid(self) -> int:
        """The number of its process on its machine, known as soon as the actor can run jobs."""
        return os.getpid()

    def run(self, job_id: str, spec: str) -> bool:
        self._stop.clear()
        self._messages.clear()
        loaded: ParsedJson = json.loads(spec)
        return run_job(self._runner, job_id, loaded, SentReports(self._put, self._stop.is_set))

    def take(self, stop: bool) -> list[str]:
        """What was reported since the last call; with ``stop`` the job is told to stop."""
        if stop:
            self._stop.set()
        taken = []
        while self._messages:
            taken.append(self._messages.popleft())
        return taken

    def _put(self, message: JsonObject) -> None:
        self._messages.append(json.dumps(message))


def _bytes_of(plan: ReplicaPlan) -> int:
    """System memory that a replica reserves on its machine: the files of the largest models that it holds."""
    sizes = sorted((_files_bytes(model) for model in plan.models), reverse=True)
    # Without a limit those that are needed at a time: one.
    held = sum(sizes[: plan.holding.most or 1])
    return held if plan.holding.memory is None else max(sizes[0], min(held, plan.holding.memory))


def _files_bytes(model: ServedModel) -> int:
    paths: list[Path | None] = [*model.checkpoints, model.text_encoder, model.upscaler, model.video_decoder]
    return sum(
        file.stat().st_size
        for path in paths
        if path is not None
        for file in (path.rglob("*") if path.is_dir() else (path,))
        if file.is_file()
    )
