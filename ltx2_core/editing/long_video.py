"""Clips longer than one run can hold, with memory that does not grow with them, that survive being stopped.

Letters: N pictures, H W latent rows and columns, T audio latents, C channels, S samples.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from ..conditioning.items import Conditioning
from ..media import fit_image
from ..request import Request
from ..shapes import AUDIO_LATENTS_PER_SECOND, ClipPlan, plan_clip
from ..types import AVLatent, LatentState
from .footage import Edit
from .given import Keyframe, Ready
from .prompts import PromptSchedule
from .windows import (
    PlacedLatent,
    Window,
    WindowStore,
    audio_pieces,
    make_windows,
    plan_windows,
    video_pieces,
)

if TYPE_CHECKING:
    from ..pipeline import LTX2Pipeline, OnStep, Stop

AUDIO_CHUNK, AUDIO_CONTEXT = 100, 25
"""Audio latents that are decoded at a time, and how many around them the decoder hears besides."""


@dataclass(frozen=True, kw_only=True)
class LongVideo:
    """How a long clip is cut into runs.

    Attributes:
        window_frames: length of a run, 8k + 1 pixel frames; memory and time of a run follow it.
        overlap_frames: how many of them, a multiple of 8, are the end of the run before.
        overlap_strength: 1 keeps these as they were, less renews them in part and fades over.
        adain_factor: from 0 to 1, how far to bring back the colours and contrasts of the first run.
        keyframes: pictures anywhere, by their frame in the whole clip.
    """

    window_frames: int = 121
    overlap_frames: int = 24
    overlap_strength: float = 1.0
    adain_factor: float = 0.0
    keyframes: Sequence[Keyframe] = ()


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
    A run has its own noise, from ``seed`` and its number.

    Raises ValueError for settings that do not fit each other, or a folder with runs of another clip.
    """
    how = how or LongVideo()
    schedule = prompts if isinstance(prompts, PromptSchedule) else PromptSchedule.parse(prompts)
    request = Request(prompt=schedule.at(0), **options)
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
    settings = _settings(pipeline, request, schedule, how, clip)
    temporary = tempfile.TemporaryDirectory(prefix="ltx2_long_") if folder is None else None
    store = WindowStore(Path(temporary.name if temporary else str(folder)), settings)

    def sample(window: Window, given: Sequence[Conditioning]) -> tuple[AVLatent, LatentState | None]:
        run = replace(
            request,
            prompt=schedule.at(window.prompt_s),
            width=clip.width,
            height=clip.height,
            num_frames=window.clip.frames,
            seconds=None,
            seed=(request.seed + window.index) % 2**64,
            image=request.image if window.index == 0 else None,
        )
        made = pipeline(run, given=[Ready(item) for item in given], on_step=on_step, stop=stop)
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
    rate = _rate(pipeline)

    def pictures(kept: Any = temporary) -> Iterator[Tensor]:
        return pipeline.decode_video(video_pieces(windows, store))

    return Edit(
        pictures=pictures,
        sounds=lambda: decoded_sound(
            lambda latent: pipeline.decode_audio(latent)[0], audio_pieces(windows, store), clip, rate
        ),
        frame_count=clip.frames,
        width=clip.width,
        height=clip.height,
        fps=clip.fps,
        rate=rate,
        settings=settings,
    )


def decoded_sound(
    decode: Callable[[Tensor], Tensor], pieces: Iterator[Tensor], clip: ClipPlan, rate: int
) -> Iterator[Tensor]:
    """Waveform chunks (C, S) of audio latent ``pieces`` (1, 8, t, 16), as long as the clip's pictures.

    ``decode`` makes (C, S) at ``rate`` Hz of a latent. Each chunk is decoded with its neighbours around it.
    """
    per_latent, total = rate // AUDIO_LATENTS_PER_SECOND, round(clip.seconds * rate)
    held, first = torch.zeros(1, 8, 0, 16), 0
    for start in range(0, clip.audio_latents, AUDIO_CHUNK):
        stop = min(start + AUDIO_CHUNK, clip.audio_latents)
        heard = min(stop + AUDIO_CONTEXT, clip.audio_latents)
        while first + held.shape[2] < heard:
            held = torch.cat((held, next(pieces)), dim=2)
        begin = max(0, start - AUDIO_CONTEXT)
        held, first = held[:, :, begin - first :], begin
        waveform = decode(held[:, :, : heard - begin])
        end = total if stop == clip.audio_latents else min(total, stop * per_latent)
        chunk = waveform[:, (start - begin) * per_latent : end - begin * per_latent]
        yield functional.pad(chunk, (0, end - start * per_latent - chunk.shape[1]))


def _encoded(pipeline: LTX2Pipeline, keyframe: Keyframe, clip: ClipPlan) -> PlacedLatent:
    if len(keyframe.frames) != 1:
        raise ValueError(f"a keyframe of a long clip is one picture; got {len(keyframe.frames)}")
    frame = keyframe.frame if keyframe.frame >= 0 else clip.frames + keyframe.frame
    if not 0 <= frame < clip.frames:
        raise ValueError(f"keyframe {keyframe.frame} is not in a clip of frames 0 to {clip.frames - 1}")
    latent = pipeline.encode_video(fit_image(keyframe.frames, clip.width, clip.height))
    return PlacedLatent(frame=frame, latent=latent, strength=keyframe.strength)


def _rate(pipeline: LTX2Pipeline) -> int:
    return pipeline.decode_audio(torch.zeros(1, 8, 2, 16))[1]


def _settings(
    pipeline: LTX2Pipeline, request: Request, schedule: PromptSchedule, how: LongVideo, clip: ClipPlan
) -> dict[str, Any]:
    """What decides the clip, as JSON values."""
    return {
        "checkpoints": [file.path.name for file in pipeline.networks.checkpoints],
        "loras": [lora.settings for lora in pipeline.loras],
        "numerics": pipeline.numerics.value,
        "clip": [clip.width, clip.height, clip.frames, clip.fps],
        "prompts": [list(part) for part in schedule.parts],
        "window": [how.window_frames, how.overlap_frames, how.overlap_strength, how.adain_factor],
        "keyframes": [[k.frame, k.strength, float(k.frames.double().sum())] for k in how.keyframes],
        "request": request.settings(),
    }
