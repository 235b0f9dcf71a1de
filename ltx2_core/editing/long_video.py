"""Clips longer than one run can hold, with memory that does not grow with them, that survive being stopped.

Letters: N pictures, H W latent rows and columns.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..conditioning.items import Conditioning
from ..media import fit_image
from ..run.request import Request
from ..shapes import AUDIO_LATENTS_PER_SECOND, ClipPlan, plan_clip
from ..types import AVLatent, LatentState
from .audio_track import audio_identity, audio_rate, decoded_audio, read_input_audio
from .conditioning import Keyframe, Ready, Reference, check_scale
from .footage import Edit
from .prompts import PromptSchedule
from .sources import FrameSource, source_frames
from .windows import PlacedLatent, Window, WindowStore, audio_pieces, make_windows, plan_windows, video_pieces

if TYPE_CHECKING:
    from ..run.pipeline import Given, LTX2Pipeline, OnStep, Stop


@dataclass(frozen=True, kw_only=True)
class LongVideo:
    """How a long clip is cut into runs.

    Attributes:
        window_frames: length of a run, 8k + 1 pixel frames; memory and time of a run follow it.
        overlap_frames: how many of them, a multiple of 8, are the end of the run before.
        overlap_strength: 1 keeps these as they were, less renews them in part and fades over.
        adain_factor: from 0 to 1, how far to bring back the colours and contrasts of the first run.
        keyframes: pictures anywhere, by their frame in the whole clip.
        source: a clip to follow, at least as long: each run is shown its part of it as the reference of an
            IC-LoRA, and starts from it where ``denoise`` is below 1.
        source_strength: 1 shows the reference clean, 0 does not show it.
        source_scale: how many times smaller than the clip it is shown; by default what the LoRAs say.
        denoise: the part of the schedule to run; below 1 the clip keeps as much of its source.
    """

    window_frames: int = 121
    overlap_frames: int = 24
    overlap_strength: float = 1.0
    adain_factor: float = 0.0
    keyframes: Sequence[Keyframe] = ()
    source: FrameSource | None = None
    source_strength: float = 1.0
    source_scale: int | None = None
    denoise: float = 1.0

    def __post_init__(self) -> None:
        if self.denoise != 1 and self.source is None:
            raise ValueError(f"denoise={self.denoise} needs a source to keep something of: give one, or 1")


def long_video(
    pipeline: LTX2Pipeline,
    prompts: str | PromptSchedule,
    *,
    how: LongVideo | None = None,
    folder: str | Path | None = None,
    on_window: Callable[[int, int], None] | None = None,
    on_step: OnStep | None = None,
    stop: Stop | None = None,
    **options: Any,
) -> Edit:
    """A clip with sound of any length, run by run; ``options`` are the fields of :class:`Request`.

    ``prompts`` may change with time, see :meth:`PromptSchedule.parse`. Each run is saved in ``folder`` when
    it is finished: called again with the same settings, it goes on with the first one that is missing and
    ends with the identical clip. Without a folder they lie in a temporary one as long as the result lives.
    A run has its own noise, from ``seed`` and its number. Sound that is given (``audio``) is what every run
    hears, and comes out as it is.

    Raises ValueError for settings that do not fit each other, or a folder with runs of another clip.
    """
    how = how or LongVideo()
    schedule = prompts if isinstance(prompts, PromptSchedule) else PromptSchedule.parse(prompts)
    request = pipeline.resolve(Request(prompt=schedule.at(0), **options))
    if request.stages != 1:
        raise ValueError("long clips are made in one stage: give stages=1")
    clip = plan_clip(
        request.width,
        request.height,
        frames=121 if request.num_frames is None and request.seconds is None else request.num_frames,
        seconds=request.seconds,
        fps=request.fps,
        snap=request.snap,
        numerics=pipeline.numerics,
    )
    windows = plan_windows(clip, how.window_frames, how.overlap_frames)
    scale = _scale(pipeline, how)
    if how.source is not None:
        check_scale(clip, scale)
    settings = _settings(pipeline, request, schedule, how, clip)
    temporary = tempfile.TemporaryDirectory(prefix="ltx2_long_") if folder is None else None
    store = WindowStore(Path(temporary.name if temporary else str(folder)), settings)

    def sample(window: Window, given: Sequence[Conditioning]) -> tuple[AVLatent, LatentState | None]:
        shown: list[Given] = [Ready(item) for item in given]
        latents = None
        if how.source is not None:
            size = window.clip.width, window.clip.height
            part = source_frames(how.source, window.first_frame, window.clip.frames, *size)
            if how.source_strength > 0:
                every = max((lora.reference_temporal_scale_factor for lora in pipeline.loras), default=1)
                shown.append(Reference(frames=part, scale=scale, strength=how.source_strength, every=every))
            if how.denoise < 1:
                latents = AVLatent(pipeline.encode_video(part), None)
        run = request.changed(
            prompt=schedule.at(window.prompt_s, window.index),
            width=clip.width,
            height=clip.height,
            num_frames=window.clip.frames,
            seconds=None,
            seed=(request.seed + window.index) % 2**64,
            image=request.image if window.index == 0 else None,
            audio_start_s=request.audio_start_s + window.audio_start / AUDIO_LATENTS_PER_SECOND,
            latents=latents,
            denoise=how.denoise,
        )
        made = pipeline(run, given=shown, on_step=on_step, stop=stop)
        return made.latents, None

    make_windows(
        windows,
        store,
        sample,
        strength=how.overlap_strength,
        adain_factor=how.adain_factor,
        keyframes=[_encoded(pipeline, keyframe, clip) for keyframe in how.keyframes],
        on_window=on_window,
    )

    def pictures(kept: Any = temporary, as_bytes: bool = False) -> Iterator[Tensor]:
        return pipeline.decode_video(video_pieces(windows, store), as_bytes=as_bytes)

    def sounds() -> Iterator[Tensor]:
        if request.audio is not None:
            return read_input_audio(request.audio, request.audio_start_s, clip)
        return decoded_audio(
            lambda latent: pipeline.decode_audio(latent)[0], audio_pieces(windows, store), clip, rate
        )

    rate = _rate(pipeline) if request.audio is None else audio_rate(request.audio)
    return Edit(
        pictures=pictures,
        sounds=sounds,
        frame_count=clip.frames,
        width=clip.width,
        height=clip.height,
        fps=clip.fps,
        rate=rate,
        settings=settings,
        byte_pictures=lambda: pictures(as_bytes=True),
    )


def _encoded(pipeline: LTX2Pipeline, keyframe: Keyframe, clip: ClipPlan) -> PlacedLatent:
    if len(keyframe.frames) != 1:
        raise ValueError(f"a keyframe of a long clip is one picture; got {len(keyframe.frames)}")
    frame = keyframe.frame if keyframe.frame >= 0 else clip.frames + keyframe.frame
    if not 0 <= frame < clip.frames:
        raise ValueError(f"keyframe {keyframe.frame} is not in a clip of frames 0 to {clip.frames - 1}")
    latent = pipeline.encode_video(fit_image(keyframe.frames, clip.width, clip.height))
    return PlacedLatent(frame=frame, latent=latent, strength=keyframe.strength)


def _scale(pipeline: LTX2Pipeline, how: LongVideo) -> int:
    if how.source_scale is not None:
        return how.source_scale
    return max((lora.reference_downscale_factor for lora in pipeline.loras), default=1)


def _rate(pipeline: LTX2Pipeline) -> int:
    return pipeline.decode_audio(torch.zeros(1, 8, 2, 16))[1]


def _settings(
    pipeline: LTX2Pipeline, request: Request, schedule: PromptSchedule, how: LongVideo, clip: ClipPlan
) -> dict[str, Any]:
    """What decides the clip, as JSON values."""
    source = how.source_strength, _scale(pipeline, how), how.denoise
    return {
        "checkpoints": [file.path.name for file in pipeline.networks.checkpoints],
        "loras": [lora.settings for lora in pipeline.loras],
        "numerics": pipeline.numerics.value,
        "clip": [clip.width, clip.height, clip.frames, clip.fps],
        "prompts": [list(part) for part in schedule.parts],
        "window": [how.window_frames, how.overlap_frames, how.overlap_strength, how.adain_factor],
        "keyframes": [[k.frame, k.strength, float(k.frames.double().sum())] for k in how.keyframes],
        "source": None if how.source is None else [how.source.identity, *source],
        "sound": audio_identity(request.audio),
        "request": request.settings(),
    }
