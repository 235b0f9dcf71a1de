"""The runners of a group of processes: the first one makes the clips, and the others sample with it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import Any

from ..editing import long_video
from ..run.generation import Generation
from ..run.pipeline import LTX2Pipeline
from ..run.progress import Progress, Stopped
from ..storage.files import JsonObject
from ..types import AVLatent
from .files import StateFolder
from .group import Abandoned, Link
from .pool import ModelPool
from .progress import Preview, Reports, Tracker
from .runner import JobRunner, Runner, stages_of, windows_of
from .specs import ClipSpec, JobSpec
from .stored_job import ClaimedJob


@dataclass(frozen=True)
class Leader(Runner):
    """The first process of a group: a runner whose others sample each clip that it samples."""

    link: Link

    def run(self, job: ClaimedJob, reports: Reports) -> JsonObject:
        try:
            return super().run(job, reports)
        finally:
            self.link.end()

    def _before_sampling(self, index: int) -> None:
        self.link.decide(index)

    def _tracker(self, reports: Reports, draw: Callable[[AVLatent], Preview | None]) -> Tracker:
        return _AgreeingTracker(reports, draw, self.link)

    def _free_others(self, model: str) -> bool:  # noqa: ARG002 that of the class
        # The others are within a step of the first try, and cannot begin again.
        return False


class _AgreeingTracker(Tracker):
    """A tracker that decides for all processes at each step whether to stop, so that none waits for another.

    Between two decisions the clip that is sampled is not to stop, whatever the reports say; once its frames
    are written, this process is alone again.
    """

    def __init__(self, reports: Reports, draw: Callable[[AVLatent], Preview | None], link: Link) -> None:
        super().__init__(reports, draw)
        self._ask, self._link = reports.stop, link
        self._together = self._told = False
        self.stop = self._agreed

    def start(self, *arguments: Any) -> None:
        super().start(*arguments)
        self._together = True

    def show(self, progress: Progress) -> None:
        if is_decided_at(progress):
            self._told = bool(self._link.decide(self._ask()))
        super().show(progress)

    def frames(self, done: int, total: int) -> None:
        self._together = False
        super().frames(done, total)

    def _agreed(self) -> bool:
        return self._told if self._together else self._ask()


@dataclass(frozen=True)
class Follower(JobRunner):
    """Another process of a group: samples the clips that the first one samples, and writes nothing."""

    folder: StateFolder
    pool: ModelPool
    link: Link

    def run(self, job: ClaimedJob, reports: Reports) -> JsonObject:  # noqa: ARG002 the first process reports
        spec = JobSpec.of(job.spec)
        try:
            while True:
                index = self.link.decide()
                assert isinstance(index, int)
                self._sample(spec, job.id, index)
        except Abandoned:
            return {}

    def close(self) -> None:
        self.pool.close()

    def _sample(self, spec: JobSpec, job_id: str, index: int) -> None:
        clip = spec.clips[index]
        pipeline = self.pool.open(spec.model).pipeline
        pipeline.set_loras(clip.loras, stage2_loras=clip.stage2_loras)
        self.pool.make_room(spec.model, stages_of(pipeline, clip)[0])
        if clip.command == "generate":
            pipeline(clip.whole_request(), on_step=self._step)
            return
        # Windows that the first process has are taken from it, and new ones are of no use to others.
        with TemporaryDirectory(prefix="ltx2_group_") as folder:
            own, saved = Path(folder) / "windows", windows_of(self.folder, job_id, index)
            _copy_windows(saved, own)
            self._sample_windows(pipeline, clip, own)

    def _sample_windows(self, pipeline: LTX2Pipeline, clip: ClipSpec, folder: Path) -> None:
        if clip.command == "long":
            prompts, how, fields = clip.long()
            long_video(pipeline, prompts, how=how, folder=folder, on_step=self._step, **fields)
            return
        callbacks: dict[str, Any] = {"on_step": self._step}
        if clip.command == "sound":
            callbacks["folder"] = folder
        with suppress(_Sampled):
            clip.edit(callbacks).make(pipeline, on_sampled=_leave)

    def _step(self, progress: Progress) -> None:
        if is_decided_at(progress) and self.link.decide():
            raise Stopped("the job was stopped")


def _copy_windows(saved: Path, folder: Path) -> None:
    """Copy finished windows, and what says which clip they are of."""
    for path in [*saved.rglob("*.json"), *saved.rglob("window_*.safetensors")]:
        target = folder / path.relative_to(saved)
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # The first process removes a damaged one, which is then sampled again by all.
        with suppress(FileNotFoundError):
            copyfile(path, target)


class _Sampled(Exception):
    """Raised to end an edit before it is decoded."""


def _leave(generation: Generation) -> None:  # noqa: ARG001 what a callback is called with
    raise _Sampled


def is_decided_at(progress: Progress) -> bool:
    """Whether the processes of a group decide at this report whether to stop.

    It is so at each step of sampling and before the first, which all of them report; other reports depend on
    what a process has in its caches.
    """
    return progress.stage.startswith("stage ")
