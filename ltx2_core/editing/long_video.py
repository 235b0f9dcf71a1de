"""Clips longer than one run can hold, sampled by a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from ..loading import Lora
from ..media import fit_image
from ..run.components import Components
from ..run.progress import OnStep, Stop
from ..run.request import Request
from ..shapes import AUDIO_LATENTS_PER_SECOND
from ..storage.identity import identity, tensor_identity
from ..types import AVLatent
from .audio_track import audio_identity
from .conditioning import Encoded, Reference, check_scale
from .edit import sample
from .footage import Edit
from .long_clip import LongPlan, LongVideo, OnWindow, SampleWindow, WindowRun, plan_long, sample_windows
from .prompts import PromptSchedule
from .protocols import Pipeline, StageInput
from .windows import Window, WindowStore


class LongPipeline(Pipeline, Protocol):
    """A pipeline that also says which files it runs; :class:`~ltx2_core.LTX2Pipeline` does."""

    @property
    def networks(self) -> Components: ...

    @property
    def loras(self) -> tuple[Lora, ...]: ...


def long_video(
    pipeline: LongPipeline,
    prompts: str | PromptSchedule,
    *,
    how: LongVideo | None = None,
    folder: str | Path | None = None,
    spare: str | Path | None = None,
    on_window: OnWindow | None = None,
    on_step: OnStep | None = None,
    stop: Stop | None = None,
    **options: Any,
) -> Edit:
    """A clip with audio of any length, window by window; ``options`` are the fields of :class:`Request`.

    ``prompts`` may change with time, see :meth:`PromptSchedule.parse`. Each window is saved in ``folder``
    when it is finished: another call with the same settings resumes with the first one that is missing and
    ends with the identical clip. Windows that find its disk full go to the folder ``spare``. Without a folder
    the windows are in a temporary one as long as the result lives. The noise of a window comes from ``seed``
    plus its number. Input audio (``audio``) conditions every window and is the audio of the result.

    Raises ValueError for settings that contradict each other, and for a folder with windows of another clip.
    """
    how = how or LongVideo()
    request = pipeline.resolve(Request(prompt="", **options))
    if request.stages != 1:
        raise ValueError("a long clip is sampled in one stage: set stages=1")
    clip = pipeline.stages(request)[-1].clip
    # A time in percent needs the length of the clip, which the recipe may decide.
    schedule = (
        prompts
        if isinstance(prompts, PromptSchedule)
        else PromptSchedule.parse(prompts, seconds=clip.seconds)
    )
    request = request.changed(prompt=schedule.at(0))
    plan = plan_long(
        clip,
        schedule,
        how,
        seed=request.seed,
        audio=request.audio,
        audio_start_s=request.audio_start_s,
    )
    if how.source is not None:
        check_scale(clip, _reference_scale(pipeline, how))
    settings = _settings(pipeline, request, plan)
    store = (
        WindowStore.temporary(settings)
        if folder is None
        else WindowStore(
            Path(folder), settings, _models(pipeline), spare=None if spare is None else Path(spare)
        )
    )

    def prepare(plan: LongPlan, prompts: tuple[str, ...]) -> SampleWindow:  # noqa: ARG001 names of PrepareSampler
        return lambda run: _sample(pipeline, request, how, run, on_step, stop)

    return sample_windows(plan, store, pipeline, prepare, on_window=on_window).finish(pipeline, settings)


def _sample(
    pipeline: LongPipeline,
    request: Request,
    how: LongVideo,
    run: WindowRun,
    on_step: OnStep | None,
    stop: Stop | None,
) -> AVLatent:
    """Sample one window of ``request``."""
    conditioning: list[StageInput] = [Encoded(item) for item in run.conditioning]
    latents = None
    if run.source is not None:
        frames = fit_image(run.source, run.window.clip.width, run.window.clip.height)
        if how.source_strength > 0:
            scale, every = _reference_scale(pipeline, how), _reference_step(pipeline)
            conditioning.append(
                Reference(frames=frames, scale=scale, strength=how.source_strength, every=every)
            )
        if how.denoise < 1:
            latents = AVLatent(pipeline.encode_video(frames), None)
    own = _request_of(request, run.window, prompt=run.prompt, seed=run.seed, latents=latents, how=how)
    return sample(pipeline, own, conditioning, on_step, stop).latents


def _request_of(
    request: Request, window: Window, *, prompt: str, seed: int, latents: AVLatent | None, how: LongVideo
) -> Request:
    """The request of the whole clip, changed to that of one window."""
    start = request.audio_start_s + window.audio_start / AUDIO_LATENTS_PER_SECOND
    return request.changed(
        prompt=prompt,
        width=window.clip.width,
        height=window.clip.height,
        num_frames=window.clip.frames,
        seconds=None,
        seed=seed,
        image=request.image if window.index == 0 else None,
        audio_start_s=request.audio_start_s if request.audio is None else start,
        latents=latents,
        denoise=how.denoise,
    )


def _reference_scale(pipeline: LongPipeline, how: LongVideo) -> int:
    """How many times smaller than the clip the source is encoded as a reference."""
    if how.source_scale is not None:
        return how.source_scale
    return max((lora.reference_downscale_factor for lora in pipeline.loras), default=1)


def _reference_step(pipeline: LongPipeline) -> int:
    """Every how many frames of the source one is used as a reference."""
    return max((lora.reference_temporal_scale_factor for lora in pipeline.loras), default=1)


def _models(pipeline: LongPipeline) -> dict[str, Any]:
    """What the networks and LoRAs are, as JSON values."""
    return {
        **pipeline.networks.identity(),
        "loras": [[identity([lora.path]), *lora.settings[1:]] for lora in pipeline.loras],
    }


def _settings(pipeline: LongPipeline, request: Request, plan: LongPlan) -> dict[str, Any]:
    """Everything that decides the clip, as JSON values."""
    clip, how = plan.clip, plan.how
    # The keys are those of folders that exist, which must stay resumable.
    source = how.source_strength, _reference_scale(pipeline, how), how.denoise
    return {
        "checkpoints": [file.path.name for file in pipeline.networks.checkpoints],
        "loras": [lora.settings for lora in pipeline.loras],
        "numerics": pipeline.numerics.value,
        "clip": [clip.width, clip.height, clip.frames, clip.fps],
        "prompts": [list(part) for part in plan.prompts.parts],
        "window": [how.window_frames, how.overlap_frames, how.overlap_strength, how.adain_factor],
        "keyframes": [[k.frame, k.strength, tensor_identity(k.frames)] for k in how.keyframes],
        "source": None if how.source is None else [how.source.identity, *source],
        "sound": audio_identity(request.audio),
        "request": request.settings(),
    }
