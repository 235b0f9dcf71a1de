"""Generates clips that are longer than one run can hold, with a pipeline."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..media import fit_image
from ..run.flat_options import FIELDS
from ..run.input_files import file_record, file_records
from ..run.progress import OnStep, Stop
from ..run.request import Request
from ..shapes import AUDIO_LATENTS_PER_SECOND
from ..storage.files import JsonObject
from ..storage.identity import tensor_identity
from ..text.prompt import TRIGGER
from ..text.schedule import PromptSchedule
from ..types import AVLatent
from .audio_track import AudioParts, audio_identity, opened
from .conditioning import Encoded, Reference, check_scale
from .edit import sample
from .long_clip import LongPlan, OnWindow, SampleWindow, WindowRun, plan_long, sample_windows
from .long_options import LongVideo
from .protocols import LongPipeline, StageInput
from .result import Edit
from .sources import FramesInFile
from .windows import Window, WindowStore, models_of


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
    """Generate a clip with audio of any length, window by window; ``options`` are fields of :class:`Request`.

    ``prompts`` may change with time, see :meth:`PromptSchedule.parse`. ``how`` divides the clip into windows.
    Each window is saved in ``folder`` when it is finished: another call with the same settings samples only
    the windows that are missing and ends with the identical clip. If the disk of ``folder`` is full, windows
    are saved below the folder ``spare``. With ``folder`` None the windows are in a temporary folder, which is
    deleted together with the result. The noise of a window is drawn with ``seed`` plus the window's number.
    Input audio (``audio``) conditions every window and is the audio of the result. ``on_window`` is called
    with (number of windows done, number of all windows); ``on_step`` is called after each sampling step and
    ``stop`` is asked whether to end early, as in the pipeline.

    Raises ValueError for settings that contradict each other, and for a folder with windows of another clip.
    """
    how = LongVideo() if how is None else how
    if not isinstance(how, LongVideo):
        raise TypeError(f"how={how!r:.60} must be a LongVideo, such as LongVideo(window_frames=121)")
    plan, request, chosen = planned_long(pipeline, prompts, how, **options)
    settings = _settings(pipeline, request, plan)
    tags = {**settings, **_record(pipeline, request, how, chosen, by_window=plan.prompts.by_window)}
    store = (
        WindowStore.temporary(settings)
        if folder is None
        else WindowStore(
            Path(folder), settings, models_of(pipeline), spare=None if spare is None else Path(spare)
        )
    )

    with nullcontext() if request.audio is None else opened(request.audio) as audio:

        def prepare(plan: LongPlan, prompts: tuple[str, ...]) -> SampleWindow:  # noqa: ARG001 names of PrepareSampler
            return lambda run: _sample(pipeline, request, how, run, audio, on_step, stop)

        return sample_windows(plan, store, pipeline, prepare, on_window=on_window).finish(pipeline, tags)


def planned_long(
    pipeline: LongPipeline, prompts: str | PromptSchedule, how: LongVideo, **options: Any
) -> tuple[LongPlan, Request, tuple[str, ...]]:
    """Plan a long clip without sampling; arguments are those of :func:`long_video`.

    Returns the plan, the request of the whole clip, and the names of those fields of the request that were
    None and that the checkpoint's recipe (its default settings) filled in. Raises ValueError for everything
    that can be found wrong before a model is read.
    """
    trigger = options.pop("trigger", None)
    asked = Request(prompt="", **options)
    if asked.size.auto:
        raise ValueError(
            "seconds=auto is for a clip of one prompt: give the length of a long clip in seconds or frames"
        )
    if asked.text.at is not None:
        raise ValueError("prompts_at is for a clip of one run: a long clip has them in its prompts")
    request = pipeline.resolve(asked)
    if request.stages != 1:
        raise ValueError("a long clip is sampled in one stage: set stages=1")
    clip = pipeline.stages(request)[-1].clip
    # A time in percent needs the length of the clip, which the recipe may decide.
    schedule = (
        prompts
        if isinstance(prompts, PromptSchedule)
        else PromptSchedule.parse(prompts, seconds=clip.seconds)
    )
    if trigger is not None:
        schedule = _with_trigger(schedule, trigger)
    request = request.changed(prompt=schedule.at(0))
    plan = plan_long(
        clip,
        schedule,
        how,
        seed=request.seed,
        audio=request.audio,
        audio_start_s=request.audio_start_s,
    )
    if isinstance(how.source, FramesInFile):
        how.source.clip.warn_of_rate(clip.fps)
    if how.source is not None:
        check_scale(clip, _reference_scale(pipeline, how))
    pipeline.check(first_window(request, plan), further=how.source is not None or bool(how.keyframes))
    names = (name for name in FIELDS if name != "prompt" and getattr(asked, name) is None)
    return plan, request, tuple(name for name in names if getattr(request, name) is not None)


def first_window(request: Request, plan: LongPlan) -> Request:
    """Return the request with the size and length of the first window, which needs the most memory."""
    size = plan.windows[0].clip
    return request.changed(width=size.width, height=size.height, num_frames=size.frames, seconds=None)


def _with_trigger(schedule: PromptSchedule, trigger: str) -> PromptSchedule:
    """Replace the text "[trigger]" in the prompts by ``trigger``, the trigger word of a LoRA.

    Raises ValueError if no prompt contains that text.
    """
    if not any(TRIGGER in prompt for _, prompt in schedule.parts):
        raise ValueError(
            f"trigger={trigger!r} has no effect without {TRIGGER} in the prompts: write it there"
        )
    parts = tuple((start, prompt.replace(TRIGGER, trigger)) for start, prompt in schedule.parts)
    return replace(schedule, parts=parts)


def _sample(
    pipeline: LongPipeline,
    request: Request,
    how: LongVideo,
    run: WindowRun,
    audio: AudioParts | None,
    on_step: OnStep | None,
    stop: Stop | None,
) -> AVLatent:
    """Sample the window that ``run`` describes.

    ``request`` is that of the whole clip, ``how`` its division into windows. ``audio`` is the clip's input
    audio, None if there is none. ``on_step`` and ``stop`` are those of the pipeline.
    """
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
    if audio is not None:
        start_s = request.audio_start_s + run.window.audio_start / AUDIO_LATENTS_PER_SECOND
        # By the time of the window's audio latents, which is rounded apart from that of its frames.
        own = own.changed(audio=audio.seconds(start_s, run.window.clip.seconds), audio_start_s=0.0)
    return sample(pipeline, own, conditioning, on_step, stop).latents


def _request_of(
    request: Request, window: Window, *, prompt: str, seed: int, latents: AVLatent | None, how: LongVideo
) -> Request:
    """Change the request of the whole clip to that of one window.

    ``latents`` are those of the source in this window, from which sampling starts; None starts from noise.
    ``how`` is the division of the clip into windows. Only the first window has the request's first image.
    """
    return request.changed(
        prompt=prompt,
        width=window.clip.width,
        height=window.clip.height,
        num_frames=window.clip.frames,
        seconds=None,
        seed=seed,
        # Later windows begin with latents of the one before, which the image would replace.
        image=request.image if window.index == 0 else None,
        latents=latents,
        denoise=how.denoise,
    )


def _reference_scale(pipeline: LongPipeline, how: LongVideo) -> int:
    """How many times smaller than the clip, in width and height, its source is encoded as a reference.

    That is ``how.source_scale``, or if it is None the largest factor that the LoRAs of the pipeline state, or
    1 without LoRAs.
    """
    if how.source_scale is not None:
        return how.source_scale
    return max((lora.reference_downscale_factor for lora in pipeline.loras), default=1)


def _reference_step(pipeline: LongPipeline) -> int:
    """The number n if every n-th frame of the source is used as a reference; 1 uses all.

    It is the largest that the LoRAs of the pipeline state, or 1 without LoRAs.
    """
    return max((lora.reference_temporal_scale_factor for lora in pipeline.loras), default=1)


def _record(
    pipeline: LongPipeline,
    request: Request,
    how: LongVideo,
    chosen: tuple[str, ...],
    *,
    by_window: bool,
) -> JsonObject:
    """JSON values for the tags of a long clip that are needed to repeat its run, in addition to its settings.

    ``chosen`` are the names of the request's fields that the recipe (default settings) of the checkpoint
    filled in. ``by_window`` says that prompts change by window and not by time.
    """
    path = getattr(how.source, "path", None)
    return {
        "dtype": str(pipeline.networks.dtype).removeprefix("torch."),
        "recipe": {"chose": list(chosen)},
        "by_window": by_window,
        "inputs": file_records(request),
        "source_file": None if path is None else file_record(path),
        "keyframe_files": [None if k.path is None else file_record(k.path) for k in how.keyframes],
    }


_ADDED: JsonObject = {
    "trigger": None,
    "prompt_embeds": None,
    "fit": "crop",
    "background": "black",
    "noise": None,
    "schedule": None,
}
"""Fields of requests that folders of earlier versions do not have."""


def _settings(pipeline: LongPipeline, request: Request, plan: LongPlan) -> JsonObject:
    """JSON values of everything that decides the frames and the audio of a long clip.

    If they are equal, an earlier run can be resumed.
    """
    clip, how = plan.clip, plan.how
    # The keys are those of folders that exist, which must stay resumable.
    source = how.source_strength, _reference_scale(pipeline, how), how.denoise
    return {
        "checkpoints": [file.path.name for file in pipeline.networks.checkpoints],
        "loras": [lora.settings for lora in pipeline.loras],
        "numerics": pipeline.numerics.value,
        "clip": [clip.width, clip.height, clip.frames, clip.fps],
        "prompts": [list(part) for part in plan.prompts.parts],
        "window": [how.window_frames, how.shared_frames, how.overlap_strength, how.adain_factor],
        "keyframes": [[k.frame, k.strength, tensor_identity(k.frames)] for k in how.keyframes],
        "source": None if how.source is None else [how.source.identity, *source],
        "sound": audio_identity(request.audio),
        "request": {
            name: value
            for name, value in request.settings().items()
            if name not in _ADDED or value != _ADDED[name]
        },
    }
