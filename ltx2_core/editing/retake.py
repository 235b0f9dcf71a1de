"""Make parts of a clip anew, in time, in one or two stages, and keep the rest.

Letters: N pictures, F latent frames, T audio latents, C channels, S samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..audio import resample
from ..conditioning.patchify import audio_positions
from ..conditioning.regions import Region, Rounding, audio_cells, check_regions, video_cells
from ..media import to_signed
from ..run.generation import Generation
from ..run.request import Request
from ..shapes import ClipPlan, frames_of, latent_frames_of
from ..types import Numerics
from .conditioning import Outside, encoded_audio
from .extend import FADE_S, track_rate
from .footage import Edit, Footage
from .sampled import OnSampled, sampled_clip

if TYPE_CHECKING:
    from ..run.pipeline import LTX2Pipeline, OnStep, Stop


def retake(
    pipeline: LTX2Pipeline,
    prompt: str,
    source: Footage,
    *,
    video: Sequence[Region] = (),
    audio: Sequence[Region] = (),
    rounding: Rounding = Rounding.COVER,
    paste: bool = True,
    on_step: OnStep | None = None,
    stop: Stop | None = None,
    sampled: Generation | None = None,
    on_sampled: OnSampled | None = None,
    **options: Any,
) -> Edit:
    """The source with the seconds in ``video`` and in ``audio`` made anew; a region past the end extends it.

    Both stages see the clean source at their own size, and the region is opened again in the second. With
    ``paste`` the pictures outside are those of the source, else they went through the autoencoder. Kept sound
    is the source's to the sample, but for 50 ms inside a region at its borders. A source without sound gets
    one all along. Pictures after the last 8k + 1 of a source that is not extended are left as they are.
    ``sampled`` and ``on_sampled`` are those of :func:`extend`.

    Raises ValueError if nothing is to be made, or for regions that end before they begin.
    """
    video, audio = check_regions(video), check_regions(audio)
    plan = plan_retake(
        source, video, audio, rounding, stages=options.get("stages", 1), numerics=pipeline.numerics
    )
    clip = plan.clip
    request = Request(
        prompt=prompt,
        **{**options, "width": clip.width, "height": clip.height, "num_frames": clip.frames},
        fps=source.fps,
    )

    def given() -> list[Outside]:
        sound = None
        if source.sound is not None:
            sound = encoded_audio(pipeline, source.sound, clip.audio_latents)
        shown = replace(source, frames=source.frames[: plan.usable])
        return [Outside(source=shown, sound=sound, video=plan.video, audio=plan.audio)]

    result = sampled_clip(
        pipeline,
        request,
        given,
        sampled=sampled,
        on_sampled=on_sampled,
        on_step=on_step,
        stop=stop,
    )
    whole = source.fitted(result.clip)
    track, rate = retaken_audio(whole, result.audio(), plan.audio, plan.frames / source.fps)
    return Edit(
        pictures=lambda: retaken_frames(whole, result.frames(), plan.video, plan.frames, paste),
        sounds=lambda: iter((track,)),
        frame_count=plan.frames,
        width=result.clip.width,
        height=result.clip.height,
        fps=source.fps,
        rate=rate,
        settings={
            **result.settings(),
            "retake": {"video": [*video], "audio": [*audio], "rounding": rounding.value, "paste": paste},
        },
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class RetakePlan:
    """What a retake makes: ``video`` (F,) and ``audio`` (T,) are True where.

    ``clip`` is the plan of the run, which sees the first ``usable`` pictures of the source; the result has
    ``frames``.
    """

    clip: ClipPlan
    usable: int
    frames: int
    video: Tensor
    audio: Tensor


def plan_retake(
    source: Footage,
    video: Sequence[Region],
    audio: Sequence[Region],
    rounding: Rounding,
    *,
    stages: int,
    numerics: Numerics,
) -> RetakePlan:
    """Raises ValueError if nothing is to be made, or for regions that end before they begin."""
    regions = (*check_regions(video), *check_regions(audio))
    if not any(start < end for start, end in regions) and source.sound is not None:
        raise ValueError("nothing is to be made anew: give a region of the video or of the audio")
    wanted = round(max([source.seconds, *(end for _, end in regions)]) * source.fps)
    extends = wanted > len(source.frames)
    usable = frames_of(latent_frames_of(len(source.frames)))
    clip = source.plan(wanted if extends else usable, stages=stages, numerics=numerics)
    made_video = video_cells(video, clip.latent_frames, source.fps, rounding)
    made_video[latent_frames_of(usable) :] = True
    made_audio = audio_cells(audio, clip.audio_latents, rounding)
    heard = source.seconds if extends else clip.seconds
    if source.sound is None:
        heard = -1.0
    made_audio[audio_positions(len(made_audio))[0, 0, :, 1] > heard + 0.05] = True
    frames = wanted if extends else len(source.frames)
    return RetakePlan(clip=clip, usable=usable, frames=frames, video=made_video, audio=made_audio)


def retaken_frames(
    source: Footage, result: Iterator[Tensor], made: Tensor, total: int, paste: bool
) -> Iterator[Tensor]:
    """``total`` pictures in chunks (N, 3, H, W) in [-1, 1] of a ``result`` in such chunks.

    With ``paste`` those that are not ``made`` (F,) are the source's.
    """
    position = 0
    for chunk in result:
        chunk = chunk[: total - position]
        if paste:
            chunk = chunk.clone()
            for number in range(len(chunk)):
                frame = position + number
                if frame < len(source.frames) and not made[latent_frames_of(frame + 8) - 1]:
                    chunk[number] = to_signed(source.frames[frame])
        position += len(chunk)
        yield chunk
    if position < total:
        yield to_signed(source.frames[position:total])


def retaken_audio(
    source: Footage, result: tuple[Tensor, int], made: Tensor, seconds: float
) -> tuple[Tensor, int]:
    """((C, S), Hz) of exactly ``seconds``: the new sound where it was made, else the source's, by sample."""
    (waveform, own), rate = result, track_rate(source, result)
    waveform = waveform if own == rate else resample(waveform, own, rate)
    channels = max(waveform.shape[0], 1 if source.sound is None else source.sound[0].shape[0])
    samples = round(seconds * rate)
    kept = source.track(channels, rate, seconds)
    new = torch.zeros(channels, samples)
    new[:, : min(samples, waveform.shape[1])] = waveform[:, :samples]
    weight = torch.zeros(samples)
    spans = audio_positions(len(made))[0, 0]
    for start, end in spans[made].tolist():
        last = samples if end >= float(spans[-1, 1]) else round(end * rate)
        weight[round(start * rate) : last] = 1
    if source.sound is not None:
        weight = _ramps(weight, round(FADE_S * rate))
    return torch.where(weight == 0, kept, torch.lerp(kept, new, weight)), rate


def _ramps(weight: Tensor, length: int) -> Tensor:
    """Rises and falls of a 0 / 1 weight (S,), spread over ``length`` samples inside the ones."""
    padded = torch.nn.functional.pad(weight[None, None], (length, length), mode="replicate")
    sums = padded[0, 0].double().cumsum(0)
    width = 2 * length + 1
    mean = (sums[width - 1 :] - torch.cat((sums.new_zeros(1), sums[:-width]))) / width
    return ((mean - 0.5) * 2).clamp(0, 1).float() * weight
