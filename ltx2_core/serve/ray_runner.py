"""Runs jobs on a Ray cluster: each runner has a replica, with networks on GPUs of its own.

The queue stays with the server. Replicas read and write the state folder, which all machines must share; a
job whose replica is lost is begun again by another one, from the latents that were saved.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import ray

from ..run.progress import Stopped
from ..storage.files import JsonObject
from .lost import CannotStart, ReplicaLost
from .progress import Reports
from .ray_replica import Replica
from .replica import ReplicaPlan
from .runner import JobRunner
from .stored_job import ClaimedJob

_IDLE_S: Final = 120.0
"""Seconds without a job after which a replica beyond the least number is freed."""
_PATIENCE_S: Final = 2.0
"""Seconds that a job must wait before another replica is started for it."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How many replicas there are: ``least`` stay loaded, and up to ``most`` while jobs wait.

    Each of their processes has ``gpus`` GPUs, 0 or 1.
    """

    least: int
    most: int
    gpus: int


def runners(plan: ReplicaPlan, scale: Scale) -> Sequence[JobRunner]:
    """A runner for each replica that there may be at most.

    Raises ValueError if no machine of the cluster has room for the processes of one replica.
    """
    check_room(plan.execution.processes.count, scale.gpus)
    return [RayRunner(plan, gpus=scale.gpus, spare=number >= scale.least) for number in range(scale.most)]


def check_room(count: int, gpus: int) -> None:
    """Raise ValueError if no machine has room for ``count`` processes that make a clip together.

    Each takes ``gpus`` GPUs, or a processor with 0.
    """
    kind, text = ("GPU", "GPUs") if gpus else ("CPU", "processors")
    machines = [int(node["Resources"].get(kind, 0)) for node in ray.nodes() if node["Alive"]]
    most = max(machines, default=0)
    if count > 1 and count > most:
        raise ValueError(
            f"--ray-group {count} needs {count} {text} in one machine, and the machines of this cluster have "
            f"{most} at most: use a smaller group, or start Ray on a larger machine first"
        )


class RayRunner(JobRunner):
    """Runs jobs one at a time by a replica, which starts with the first of them and again after it was lost.

    A ``spare`` one starts only for a job that has waited, and frees its replica when no jobs come.
    """

    def __init__(self, plan: ReplicaPlan, *, gpus: int, spare: bool) -> None:
        self._plan, self._gpus, self._spare = plan, gpus, spare
        self._replica: Replica | None = None
        self._used = time.monotonic()

    @property
    def patience_s(self) -> float:
        return _PATIENCE_S if self._spare and self._replica is None else 0.0

    def run(self, job: ClaimedJob, reports: Reports) -> JsonObject:
        try:
            replica = self._started(reports)
            try:
                return replica.run(job, reports)
            except ReplicaLost:
                # Without a wait for the others, which may never end.
                self.close()
                raise
            finally:
                if self._replica is not None and not self._replica.usable():
                    self.close()
        finally:
            self._used = time.monotonic()

    def idle(self) -> None:
        if self._spare and time.monotonic() - self._used > _IDLE_S:
            self.close()

    def close(self) -> None:
        replica, self._replica = self._replica, None
        if replica is not None:
            replica.close()

    def _started(self, reports: Reports) -> Replica:
        """The replica, which is started if there is none, or if it was lost since the last job."""
        if self._replica is not None and self._replica.lives():
            return self._replica
        self.close()
        self._replica = Replica(self._plan, self._gpus)
        try:
            self._replica.start(reports.stop)
        except (Stopped, CannotStart, ReplicaLost):
            self.close()
            raise
        return self._replica
