"""The progress of jobs: stage, step, time that remains and previews, written by a worker, read by clients."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from threading import Lock
from typing import Protocol

from ..run.job import DECODE, Job, Part
from ..run.progress import Progress, Stopped
from ..storage.files import JsonObject
from ..types import AVLatent


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """How far a job is.

    ``clip`` of ``clips`` is being made (counted from 1), ``step`` of ``steps`` steps of ``stage`` are done,
    and ``fraction`` (0 to 1) of the whole job. ``eta_s`` is how many seconds remain, None while unknown.
    """

    clip: int
    clips: int
    stage: str
    step: int
    steps: int
    fraction: float
    eta_s: float | None

    def json(self) -> JsonObject:
        return {
            **asdict(self),
            "fraction": round(self.fraction, 4),
            "eta_s": None if self.eta_s is None else round(self.eta_s, 1),
        }


@dataclass(frozen=True, kw_only=True)
class Preview:
    """How a clip looks and sounds while it is sampled, number ``number`` of its job, counted from 1.

    ``image`` is a JPEG file in base64 with ``frames`` frames of the clip side by side, None for audio alone.
    ``levels`` are the loudness of the audio over time, each from 0 to 1; () without audio.
    """

    number: int
    image: str | None
    frames: int
    levels: tuple[float, ...]

    def json(self) -> JsonObject:
        return {**asdict(self), "levels": list(self.levels)}


@dataclass(frozen=True, kw_only=True)
class ClipMeter:
    """What one clip took: ``seconds`` by part of the work, and ``tokens``, latent tokens times steps.

    ``stages`` are the seconds of "sampling" by stage: "1", "upscale", "2". ``device_bytes`` is the most
    device memory that the process has reserved, 0 without a GPU.
    """

    seconds: Mapping[str, float]
    stages: Mapping[str, float]
    tokens: int
    device_bytes: int = 0


class Reports(Protocol):
    """Receives what a runner reports of a job, and tells the runner when to stop."""

    def snapshot(self, snapshot: Snapshot) -> None:
        """The job has come this far."""

    def preview(self, preview: Preview) -> None:
        """The clip that is sampled looks like this."""

    def finished(self, meter: ClipMeter) -> None:
        """A clip is finished."""

    def stop(self) -> bool:
        """Whether the job must stop."""


class Board:
    """The latest snapshot of each job that runs, and which of them must stop. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._snapshots: dict[str, Snapshot] = {}
        self._previews: dict[str, Preview] = {}
        self._canceled: set[str] = set()

    def set(self, job_id: str, snapshot: Snapshot) -> None:
        with self._lock:
            self._snapshots[job_id] = snapshot

    def get(self, job_id: str) -> Snapshot | None:
        """The latest snapshot of a job; None if it does not run or has not reported yet."""
        with self._lock:
            return self._snapshots.get(job_id)

    def set_preview(self, job_id: str, preview: Preview) -> None:
        with self._lock:
            self._previews[job_id] = preview

    def preview(self, job_id: str) -> Preview | None:
        """The latest preview of a job; None if it does not run or has none yet."""
        with self._lock:
            return self._previews.get(job_id)

    def cancel(self, job_id: str) -> None:
        """Have the worker stop a job at the next block of the transformer."""
        with self._lock:
            self._canceled.add(job_id)

    def is_canceled(self, job_id: str) -> bool:
        return job_id in self._canceled

    def forget(self, job_id: str) -> None:
        """Remove what is known of a job that no longer runs."""
        with self._lock:
            self._snapshots.pop(job_id, None)
            self._previews.pop(job_id, None)
            self._canceled.discard(job_id)


class Tracker:
    """Converts what a run reports to snapshots and previews, which are passed to ``reports``.

    ``draw`` makes the next preview of estimated latents, or None if it is not its time. :class:`Stopped` is
    raised at a report if the job must stop.
    """

    def __init__(self, reports: Reports, draw: Callable[[AVLatent], Preview | None] | None = None) -> None:
        self._reports, self._draw = reports, draw
        self.stop = reports.stop
        self._clip = self._clips = 1
        self._job: Job | None = None
        self._began: tuple[float, float] | None = None

    def start(self, clip: int, clips: int, parts: Sequence[Part]) -> None:
        """Begin with clip number ``clip`` of ``clips``, counted from 1; ``parts`` are those of its work."""
        self._clip, self._clips, self._job = clip, clips, Job(parts)

    def show(self, progress: Progress) -> None:
        """Publish a report of the run; a callback ``on_step``."""
        assert self._job is not None
        self._put(self._job.advance(progress), progress.stage, progress.step, progress.steps)
        if self._draw is not None and progress.x0 is not None:
            preview = self._draw(progress.x0)
            if preview is not None:
                self._reports.preview(preview)

    def frames(self, done: int, total: int) -> None:
        """Publish that ``done`` of ``total`` frames are written; a callback ``on_frames``."""
        self.show(Progress(stage=DECODE, step=done, steps=total))

    def window(self, done: int, windows: int) -> None:
        """Publish that ``done`` of ``windows`` windows are sampled; a callback ``on_window``."""
        assert self._job is not None
        # Part 0 of the job is the text, and each window is a part after it.
        self._put(self._job.reach(1 + done), "windows", done, windows)

    def _put(self, fraction: float, stage: str, step: int, steps: int) -> None:
        if self.stop():
            raise Stopped("the job was stopped")
        now, whole = time.monotonic(), (self._clip - 1 + fraction) / self._clips
        if self._began is None:
            # A job that is resumed begins with what was done before, which took no time of this run.
            self._began = now, whole
        since, before = self._began
        eta_s = (now - since) * (1 - whole) / (whole - before) if whole > before else None
        self._reports.snapshot(
            Snapshot(
                clip=self._clip,
                clips=self._clips,
                stage=stage,
                step=step,
                steps=steps,
                fraction=whole,
                eta_s=eta_s,
            )
        )
