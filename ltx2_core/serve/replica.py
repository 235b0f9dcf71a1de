"""What runs in a process that makes clips: jobs come in and reports go out as JSON, by any two functions."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from ..out_of_memory import is_out_of_memory
from ..run.execution import Execution
from ..run.progress import Stopped
from ..storage.files import JsonObject, ParsedJson
from .files import StateFolder
from .group import Member, is_lost_peer
from .lost import JobFailed, ReplicaLost
from .members import Follower, Leader
from .pool import Holding, ModelPool
from .progress import ClipMeter, Preview, Reports, Snapshot
from .runner import JobRunner, Runner
from .served_model import ServedModel
from .stored_job import ClaimedJob, State

_TRACE: Final = 20_000
"""Most characters of a traceback."""


@dataclass(frozen=True, kw_only=True)
class ReplicaPlan:
    """What a process needs to run jobs: the state folder, the models, and how networks are executed.

    ``holding`` says which models stay loaded. The value can be sent to another process. The processes of
    ``execution`` are those that sample one clip together.
    """

    state: Path
    models: tuple[ServedModel, ...]
    execution: Execution
    holding: Holding = field(default_factory=Holding)

    def runner(self, member: Member | None = None) -> JobRunner:
        """A runner of this process alone, or of this ``member`` of a group."""
        models, folder = {model.id: model for model in self.models}, StateFolder(self.state)
        if member is None:
            return Runner(folder, ModelPool(models, self.execution, self.holding))
        execution = replace(self.execution, device=member.device, processes=member.processes)
        pool = ModelPool(models, execution, self.holding)
        return (Follower if member.processes.rank else Leader)(folder, pool, member.link)


@dataclass(frozen=True)
class SentReports:
    """Reports of a job as JSON values, carried to the server by ``send``; ``stop`` is whether to stop."""

    send: Callable[[JsonObject], None]
    stop: Callable[[], bool]

    def snapshot(self, snapshot: Snapshot) -> None:
        self.send({"snapshot": asdict(snapshot)})

    def preview(self, preview: Preview) -> None:
        self.send({"preview": preview.json()})

    def finished(self, meter: ClipMeter) -> None:
        self.send({"finished": {**asdict(meter)}})


def run_job(runner: JobRunner, job_id: str, spec: ParsedJson, reports: SentReports) -> bool:
    """Run a job and send how it ended. Returns False if this process can run no other job.

    What is sent is ``{"outcome": ...}``, ``{"stopped": true}`` or ``{"failed": ...}``.
    """
    try:
        outcome = runner.run(claimed(job_id, spec), reports)
    except Stopped:
        reports.send({"stopped": True})
    # Whatever one job raises, the next one has to run.
    except Exception as error:  # noqa: BLE001
        expected = isinstance(error, ValueError | OSError)
        lost = is_lost_peer(error)
        usable = not lost and not leaves_device_unusable(error)
        reports.send(
            {
                "failed": str(error) or type(error).__name__,
                "lost": lost,
                "expected": expected,
                "trace": "" if expected else traceback.format_exc()[-_TRACE:],
            }
        )
        return usable
    else:
        reports.send({"outcome": outcome})
    return True


def received(message: ParsedJson, reports: Reports) -> JsonObject | None:
    """Pass a message of :class:`SentReports` to ``reports``; returns the outcome of a job that has succeeded.

    Raises ``Stopped`` or :class:`JobFailed` for a job that has not, and :class:`ReplicaLost` if another
    process of its group does not answer.
    """
    for name, value in message.items():
        if name == "snapshot":
            reports.snapshot(Snapshot(**value))
        elif name == "preview":
            reports.preview(Preview(**{**value, "levels": tuple(value["levels"])}))
        elif name == "finished":
            frozen = {part: MappingProxyType(value[part]) for part in ("seconds", "stages")}
            reports.finished(ClipMeter(**{**value, **frozen}))
        elif name == "stopped":
            raise Stopped("the job was stopped")
        elif name == "failed":
            if message["lost"]:
                raise ReplicaLost(f"another process of the group is lost: {value}")
            raise JobFailed(value, expected=message["expected"], trace=message["trace"])
        elif name == "outcome":
            outcome: JsonObject = value
            return outcome
    return None


def claimed(job_id: str, spec: ParsedJson) -> ClaimedJob:
    """The job with this id and spec, as a runner needs it; the queue of the server has the rest."""
    rest: dict[str, Any] = {"number": 0, "kind": "", "created": 0.0, "started": None, "finished": None}
    return ClaimedJob(
        id=job_id,
        spec=spec,
        state=State.RUNNING,
        attempts=1,
        cancel=False,
        model=spec["model"],
        outcome=None,
        error=None,
        **rest,
    )


def leaves_device_unusable(error: BaseException) -> bool:
    """Whether every later call of the GPU in this process will fail too, as after an illegal memory access.

    Running out of memory is no such error.
    """
    if is_out_of_memory(error) or not isinstance(error, RuntimeError):
        return False
    return "CUDA error" in str(error)
