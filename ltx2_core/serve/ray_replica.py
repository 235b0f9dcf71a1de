"""A replica on a Ray cluster: one actor, or a group of actors that sample each clip together."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any, Final

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ..run.progress import Stopped
from ..storage.files import JsonObject, ParsedJson
from .group import Member, Place, join, opened_store
from .lost import CannotStart, ReplicaLost
from .progress import Reports
from .replica import ReplicaPlan, SentReports, received, run_job
from .runner import JobRunner
from .served_model import ServedModel
from .stored_job import ClaimedJob

LOST: Final = (RayActorError, OutOfMemoryError)
"""What Ray raises if the process of an actor is gone."""
_LOOK_S: Final = 0.2
"""Seconds between two looks at the actors."""
_OTHERS_S: Final = 15.0
"""Seconds that the other processes of a group have to end a job after one of them has ended it."""
_STOP_S: Final = 120.0
"""Seconds that a group has to end a job that was told to stop, before its processes are killed."""


class Replica:
    """The actors that run one job at a time together, as many as the execution of ``plan`` has processes.

    Each has ``gpus`` GPUs, 0 or 1. The first one makes the clips. If one of them is lost the others wait for
    it for ever, so that the caller has to :meth:`close` the replica after any exception of the module
    :mod:`.lost`.
    """

    def __init__(self, plan: ReplicaPlan, gpus: int) -> None:
        count = plan.execution.processes.count
        needs = {"CPU": 1, "GPU": gpus, "memory": bytes_of(plan)}
        self._placed: Any = None
        where: list[Any] = ["DEFAULT"]
        if count > 1:
            # On one machine, since tokens are exchanged in every block.
            self._placed = placement_group([needs] * count, strategy="STRICT_PACK")
            where = [PlacementGroupSchedulingStrategy(self._placed, index) for index in range(count)]
        self.actors: list[Any] = [
            ray.remote(_Actor)
            .options(
                # One thread runs the job, and another one says how far it is.
                max_concurrency=2,
                num_cpus=needs["CPU"],
                num_gpus=needs["GPU"],
                memory=needs["memory"],
                scheduling_strategy=strategy,
            )
            .remote(plan)
            for strategy in where
        ]
        self._turn = 0
        self._running: list[Any] = []

    def start(self, stop: Callable[[], bool]) -> None:
        """Wait until a machine has room for the actors, and until they can run jobs.

        Raises ``Stopped`` if ``stop`` returns True before, :class:`CannotStart` if they cannot run jobs, and
        :class:`ReplicaLost` if one of them is lost.
        """
        try:
            _all([actor.pid.remote() for actor in self.actors], stop)
            places: list[Place | None] = [None]
            if len(self.actors) > 1:
                host, port = ray.get(self.actors[0].open.remote())
                places = [Place(rank=rank, host=host, port=port) for rank in range(len(self.actors))]
            pairs = zip(self.actors, places, strict=True)
            _all([actor.start.remote(place) for actor, place in pairs], stop)
        except LOST as error:
            if getattr(error, "actor_init_failed", False):
                raise CannotStart(str(error)) from error
            raise ReplicaLost(f"the replica is lost: {error}") from error
        except RayError as error:
            raise CannotStart(str(error)) from error

    def lives(self) -> bool:
        """Whether all actors answer."""
        try:
            ray.get([actor.pid.remote() for actor in self.actors], timeout=_OTHERS_S)
        except RayError:
            return False
        return True

    def run(self, job: ClaimedJob, reports: Reports) -> JsonObject:
        """Run a job; returns its outcome. Raises ``Stopped``, ``JobFailed`` and :class:`ReplicaLost`."""
        self._turn += 1
        text = json.dumps(job.spec)
        self._running = [actor.run.remote(job.id, text, self._turn) for actor in self.actors]
        try:
            return self._followed(reports)
        except LOST as error:
            raise ReplicaLost(f"the replica of the job is lost: {error}") from error

    def usable(self) -> bool:
        """Whether all actors have ended the last job, for which they are given time, and can run another."""
        try:
            ended = ray.get(self._running, timeout=_OTHERS_S)
        except RayError:
            return False
        return all(json.loads(one)["usable"] for one in ended)

    def close(self) -> None:
        """End all processes, also those that wait for one that is lost."""
        for actor in self.actors:
            with suppress(RayError):
                ray.kill(actor)
        if self._placed is not None:
            with suppress(RayError):
                remove_placement_group(self._placed)

    def _followed(self, reports: Reports) -> JsonObject:
        """Pass on what the first actor reports until it has ended the job, while all of them live."""
        first, *others = self._running
        patience = _Patience()
        while True:
            ended, _ = ray.wait(self._running, num_returns=len(self._running), timeout=_LOOK_S)
            stop = reports.stop()
            # After the look, so that the last messages of a job that has ended are among them.
            for message in ray.get(self.actors[0].take.remote(stop)):
                outcome = received(json.loads(message), reports)
                if outcome is not None:
                    return outcome
            if first in ended:
                ray.get(first)
                raise ReplicaLost("the replica ended the job without a result")
            failed = _first_failure([ref for ref in others if ref in ended])
            if failed is not None and patience.ends("failed", _OTHERS_S):
                received(failed, reports)
            # A single process has nobody to wait for, and its step may take longer.
            if others and stop and patience.ends("stop", _STOP_S):
                raise Stopped("the job was stopped")


class _Patience:
    """Tells when something has lasted too long."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def ends(self, what: str, seconds: float) -> bool:
        """Whether the first call for ``what`` was more than so many seconds ago."""
        return time.monotonic() - self._since.setdefault(what, time.monotonic()) > seconds


class _Actor:
    """Runs jobs in one thread, and hands out what it reports in another one."""

    def __init__(self, plan: ReplicaPlan) -> None:
        self._plan = plan
        self._store: Any = None
        self._member: Member | None = None
        self._runner: JobRunner | None = None
        self._messages: deque[str] = deque()
        self._last: JsonObject = {}
        self._stop = Event()

    def pid(self) -> int:
        """The number of its process on its machine, known as soon as there is one."""
        return os.getpid()

    def open(self) -> tuple[str, int]:
        """In the first actor of a group open the store at which it meets; returns its host and port."""
        host = ray.util.get_node_ip_address()
        self._store = opened_store(host)
        return host, self._store.port

    def start(self, place: Place | None) -> None:
        """Get ready for jobs, in a group together with its other actors."""
        if self._runner is None:
            if place is not None:
                execution = self._plan.execution
                self._member = join(place, execution.processes, execution.device, self._store)
            self._runner = self._plan.runner(self._member)

    def run(self, job_id: str, spec: str, turn: int) -> str:
        """Run a job, the number ``turn`` of this replica.

        Returns, as JSON, whether this process is ``usable`` for another one and its ``last`` message.
        """
        assert self._runner is not None
        self._stop.clear()
        self._messages.clear()
        if self._member is not None:
            self._member.link.begin(turn)
        loaded: ParsedJson = json.loads(spec)
        usable = run_job(self._runner, job_id, loaded, SentReports(self._put, self._stop.is_set))
        return json.dumps({"usable": usable, "last": self._last})

    def take(self, stop: bool) -> list[str]:
        """What was reported since the last call; with ``stop`` the job is told to stop."""
        if stop:
            self._stop.set()
        taken = []
        while self._messages:
            taken.append(self._messages.popleft())
        return taken

    def _put(self, message: JsonObject) -> None:
        self._last = message
        self._messages.append(json.dumps(message))


def _all(waiting: Sequence[Any], stop: Callable[[], bool]) -> None:
    """Wait for all results; raise the first error as soon as there is one, ``Stopped`` if told to stop."""
    left = list(waiting)
    while left:
        ended, left = ray.wait(left, timeout=_LOOK_S)
        ray.get(ended)
        if left and stop():
            raise Stopped("the job was stopped")


def _first_failure(ended: Sequence[Any]) -> ParsedJson | None:
    """The last message of the first of these ended runs that has failed; None if none has."""
    for text in ray.get(ended):
        last: ParsedJson = json.loads(text)["last"]
        if "failed" in last:
            return last
    return None


def bytes_of(plan: ReplicaPlan) -> int:
    """System memory that a process of a replica reserves: the files of the largest models that it holds."""
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
