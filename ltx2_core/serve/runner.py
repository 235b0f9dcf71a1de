"""Makes the clips of a job by the library's pipelines, and resumes a job that was interrupted."""

from __future__ import annotations

import json
import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..editing import Edit, long_video
from ..editing.long_video import first_window, planned_long
from ..media import Encoding
from ..media.save import audio_clip, save_clip
from ..out_of_memory import is_out_of_memory
from ..run.generation import METADATA_KEY, Generation
from ..run.job import job_parts
from ..run.pipeline import LTX2Pipeline
from ..run.saved_latents import SUFFIX, resume, save_latents
from ..run.stages import Stage
from ..storage.files import JsonObject
from ..types import AVLatent
from .files import StateFolder
from .pool import ModelPool
from .previews import Drawing
from .progress import ClipMeter, Preview, Reports, Tracker
from .specs import ClipSpec, JobSpec
from .stored_job import ClaimedJob

_log = logging.getLogger(__name__)


class JobRunner(ABC):
    """Makes the clips of jobs, one job at a time: here, in another process or on another machine."""

    @property
    def pid(self) -> int | None:
        """The number of its process on this machine; None if it has none of its own."""
        return None

    @property
    def patience_s(self) -> float:
        """How many seconds a job must have waited before this runner takes it."""
        return 0.0

    @abstractmethod
    def run(self, job: ClaimedJob, reports: Reports) -> JsonObject:
        """Make all clips of a job and return what they are, as JSON values.

        Raises what the pipeline raises, ``Stopped`` if ``reports`` stops the job, and the exceptions of
        :mod:`.lost` if the process that runs it is gone or cannot start.
        """

    def look(self) -> None:  # noqa: B027 others look by themselves
        """Called by any thread when the running job may have been told to stop."""

    def idle(self) -> None:  # noqa: B027 most need not know
        """Called from time to time while there is no job."""

    @abstractmethod
    def close(self) -> None:
        """Free the networks; a later job loads them again."""


@dataclass(frozen=True)
class Runner(JobRunner):
    """Runs jobs one at a time. ``folder`` is where their files are, ``pool`` has the models."""

    folder: StateFolder
    pool: ModelPool

    def run(self, job: ClaimedJob, reports: Reports) -> JsonObject:
        """Make all clips of a job and return what they are, as JSON values.

        Clips that an earlier, interrupted run has finished are not made again, and latents that it has saved
        are only decoded. Raises what the pipeline raises, and ``Stopped`` if ``reports`` stops the job.
        """
        began, spec = time.monotonic(), JobSpec.of(job.spec)
        clips: list[JsonObject] = []
        loading_s = 0.0
        tracker: Tracker | None = None
        for index, clip in enumerate(spec.clips):
            outcome = self.folder.recorded_clip(job.id, index)
            if outcome is None or not (self.folder.results / outcome["file"]).is_file():
                if clip.refused is not None:
                    raise ValueError(clip.refused)
                since = time.monotonic()
                model = self.pool.open(spec.model)
                model.pipeline.set_loras(clip.loras, stage2_loras=clip.stage2_loras)
                loading_s += time.monotonic() - since
                if tracker is None:
                    tracker = self._tracker(reports, Drawing(model.previews))
                room = partial(self.pool.make_room, spec.model)
                begin = partial(self._before_sampling, index)
                making = _Making(self.folder, model.pipeline, tracker, job.id, index, room, begin)
                outcome, meter = self._made(making, clip, spec)
                self.folder.record_clip(job.id, index, outcome)
                reports.finished(replace(meter, device_bytes=_reserved(self.pool.device)))
            clips.append(dict(outcome))
        return {
            "clips": clips,
            "seconds": round(time.monotonic() - began, 3),
            "opening_s": round(loading_s, 3),
        }

    def close(self) -> None:
        self.pool.close()

    def _made(self, making: _Making, clip: ClipSpec, spec: JobSpec) -> tuple[JsonObject, ClipMeter]:
        """Make a clip; if memory runs out while other models are held, free them and make it again."""
        try:
            return making.make(clip, len(spec.clips))
        except Exception as error:
            if not is_out_of_memory(error) or not self._free_others(spec.model):
                raise
            _log.warning("memory ran out: other models are freed, and the clip is made again")
        return making.make(clip, len(spec.clips))

    def _free_others(self, model: str) -> bool:
        """Free all models but this one, after memory ran out; returns whether the clip can be made again."""
        return self.pool.keep_only(model)

    def _before_sampling(self, index: int) -> None:
        """Called before clip number ``index`` is sampled, and not for one whose latents are saved."""

    def _tracker(self, reports: Reports, draw: Callable[[AVLatent], Preview | None]) -> Tracker:
        return Tracker(reports, draw)


@dataclass(frozen=True)
class _Making:
    """Makes clip number ``index`` of the job ``job_id``.

    ``make_room`` frees memory for its stages, and ``begin`` is called before it is sampled.
    """

    folder: StateFolder
    pipeline: LTX2Pipeline
    tracker: Tracker
    job_id: str
    index: int
    make_room: Callable[[Sequence[Stage]], None]
    begin: Callable[[], None]

    def make(self, clip: ClipSpec, clips: int) -> tuple[JsonObject, ClipMeter]:
        """Sample, decode and write the clip; returns what it is (size, length, seed ...) and what it took."""
        path = self.folder.result(self.job_id, self.index, clip.suffix)
        clock = self.pipeline.networks.clock
        before, stages_before = clock.seconds(), clock.stages()
        began = time.monotonic()
        stages, windows = stages_of(self.pipeline, clip)
        self.make_room(stages)
        tokens = windows * sum(map(_work, stages))
        self.tracker.start(self.index + 1, clips, job_parts(stages, windows=windows))
        # A run that was killed before the clip was recorded may have left a folder of EXR images, which is
        # not written over.
        self.folder.clear(self.job_id, self.index)
        if clip.command == "generate":
            made = self._generated(clip, path)
        elif clip.command == "long":
            made = self._long(clip, path)
        else:
            made = self._edited(clip, path)
        _to_disk(path)
        seconds = _since(before, clock.seconds())
        total = round(time.monotonic() - began, 3)
        about: JsonObject = {"file": path.name, "format": clip.suffix, "seconds": seconds, "total_s": total}
        return {**made, **about}, ClipMeter(
            seconds=seconds, stages=_since(stages_before, clock.stages()), tokens=tokens
        )

    def _generated(self, clip: ClipSpec, path: Path) -> JsonObject:
        generation = self._saved(path)
        if generation is None:
            request = clip.whole_request()
            self.begin()
            generation = self.pipeline(request, on_step=self.tracker.show, stop=self.tracker.stop)
            self._save(generation, path)
        generation.save(path, on_frames=self.tracker.frames, stop=self.tracker.stop, **clip.encoding)
        plan, seed = generation.clip, generation.request.seed
        return _described(plan.width, plan.height, plan.frames, plan.fps, seed)

    def _edited(self, clip: ClipSpec, path: Path) -> JsonObject:
        sampled: list[Generation] = []

        def save(generation: Generation) -> None:
            sampled.append(generation)
            self._save(generation, path)

        callbacks: dict[str, Any] = {"on_step": self.tracker.show, "stop": self.tracker.stop}
        if clip.command == "sound":
            callbacks["folder"] = self._windows()
        saved = self._saved(path)
        if saved is None:
            self.begin()
        made = clip.edit(callbacks).make(self.pipeline, sampled=saved, on_sampled=save)
        seed = clip.request["seed"]
        if isinstance(made, Edit):
            made.save(path, on_frames=self.tracker.frames, timed=self._timed(), **clip.encoding)
            return _described(made.width, made.height, made.frame_count, made.fps, seed)
        tags = {METADATA_KEY: json.dumps(sampled[0].settings())} if sampled else {}
        alone = audio_clip(made, tags)
        save_clip(path, alone, Encoding(**clip.encoding), on_frames=self.tracker.frames, timed=self._timed())
        return {**_described(0, 0, 0, 0.0, seed), "seconds_of_audio": made[0].shape[-1] / made[1]}

    def _long(self, clip: ClipSpec, path: Path) -> JsonObject:
        prompts, how, fields = clip.long()
        self.begin()
        made = long_video(
            self.pipeline,
            prompts,
            how=how,
            folder=self._windows(),
            on_window=self.tracker.window,
            on_step=self.tracker.show,
            stop=self.tracker.stop,
            **fields,
        )
        made.save(path, on_frames=self.tracker.frames, timed=self._timed(), **clip.encoding)
        return _described(made.width, made.height, made.frame_count, made.fps, clip.request["seed"])

    def _timed(self) -> Callable[[str], Any]:
        return self.pipeline.networks.clock.timed

    def _windows(self) -> Path:
        return windows_of(self.folder, self.job_id, self.index)

    def _save(self, generation: Generation, path: Path) -> None:
        try:
            save_latents(generation, path, folder=self.folder.work(self.job_id))
        except OSError as error:
            # Decoding needs no disk but for the result, and the job may well end before the server does.
            _log.warning("job %s: the latents could not be saved before decoding: %s", self.job_id, error)

    def _saved(self, path: Path) -> Generation | None:
        """The latents that an interrupted run of this clip has sampled; None if it has none that fit."""
        for file in self.folder.work(self.job_id).glob(f"{path.stem}-*{SUFFIX}"):
            try:
                return resume(file, self.pipeline)
            except (ValueError, OSError) as error:
                # Files of models may have been exchanged between two starts of the server.
                _log.warning("job %s is sampled again: %s", self.job_id, error)
                file.unlink(missing_ok=True)
        return None


def windows_of(folder: StateFolder, job_id: str, index: int) -> Path:
    """The folder for the finished windows of clip number ``index`` of a job."""
    return folder.work(job_id) / f"clip_{index}.windows"


def stages_of(pipeline: LTX2Pipeline, clip: ClipSpec) -> tuple[Sequence[Stage], int]:
    """The stages of a clip, or those of one window of a long clip, and how many windows it has."""
    if clip.command != "long":
        return pipeline.stages(clip.whole_request()), 1
    prompts, how, fields = clip.long()
    plan, request, _ = planned_long(pipeline, prompts, how, **fields)
    return pipeline.stages(first_window(request, plan)), len(plan.windows)


def _since(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Seconds by name that were added to those of ``before``."""
    return {name: round(seconds - before.get(name, 0.0), 3) for name, seconds in after.items()}


def _reserved(device: torch.device) -> int:
    """Most bytes of memory of ``device`` that this process has reserved; 0 on the CPU."""
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else 0


def _work(stage: Stage) -> int:
    """Latent tokens times steps of a stage."""
    return (len(stage.sigmas) - 1) * (stage.sampled.video_tokens + stage.sampled.audio_tokens)


def _described(width: int, height: int, frames: int, fps: float, seed: int) -> JsonObject:
    return {"width": width, "height": height, "num_frames": frames, "fps": fps, "seed": seed}


def _to_disk(path: Path) -> None:
    """Have the system write a file to its disk: the job is recorded as finished after this."""
    # Windows flushes only files that are open for writing.
    with path.open("r+b") as file:
        os.fsync(file.fileno())
