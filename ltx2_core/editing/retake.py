"""Retake: regenerate time regions of a clip in one or two stages and preserve the rest.

Letters: N frames, F latent frames, T audio latents, C channels, S samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..conditioning.patchify import audio_positions
from ..conditioning.regions import Region, Rounding, audio_cells, check_regions, covered, video_cells
from ..media import to_signed
from ..shapes import ClipPlan, frames_of, latent_frames_of
from ..types import AVLatent, Numerics
from .conditioning import SourceFrames, source_audio
from .edit import make_edit
from .extend import FADE_S, matched_audio
from .footage import Edit, Footage
from .protocols import Encoders, Pipeline, SampledClip, StageInput, Waveform


def retake(
    pipeline: Pipeline,
    prompt: str,
    source: Footage,
    *,
    video: Sequence[Region] = (),
    audio: Sequence[Region] = (),
    rounding: Rounding = Rounding.COVER,
    paste: bool = True,
    **options: Any,
) -> Edit:
    """The source with the seconds in ``video`` and ``audio`` regenerated; a region past its end extends it.

    Every stage is conditioned on the clean source at its own size and regenerates the same regions, which
    ``rounding`` brings onto latent frames. With ``paste`` the frames outside the rounded regions are the
    decoded frames of the source, cut to the grid; otherwise the video VAE has encoded and decoded them. The
    source's samples of audio are preserved, except for fades of 50 ms inside a region at its borders. A
    source without audio gets audio over its whole length. If the source is not extended, frames after its
    last 8k + 1 are not regenerated. ``options`` are those of :func:`extend`.

    Raises ValueError if nothing is to be regenerated, or for regions that end before they begin.
    """
    plan = plan_retake(
        source,
        video,
        audio,
        rounding,
        paste=paste,
        stages=options.get("stages", 1),
        numerics=pipeline.numerics,
    )
    return make_edit(pipeline, plan, prompt, **options)


@dataclass(frozen=True, kw_only=True, eq=False)
class Retake:
    """A planned retake: ``video`` (F,) and ``audio`` (T,) are True for the latents to regenerate.

    The run is conditioned on the first ``usable_frames`` frames of the source, which are 8k + 1; the result
    has ``frame_count`` frames. ``settings`` are the arguments of the retake as JSON values.
    """

    source: Footage
    clip: ClipPlan
    usable_frames: int
    frame_count: int
    video: Tensor
    audio: Tensor
    paste: bool
    settings: dict[str, Any]
    regenerates_video = True

    def conditioning(self, codecs: Encoders) -> list[StageInput]:
        items: list[StageInput] = [SourceFrames(self.source.part(0, self.usable_frames), self.video)]
        if self.source.audio is not None:
            items.append(source_audio(codecs, self.source.audio, self.audio))
        return items

    def finish(self, sampled: SampledClip) -> Edit:
        """The source with the regenerated parts of the sampled clip."""
        source, total = self.source.fitted(sampled.clip), self.frame_count
        track, rate = retaken_audio(source, sampled.audio(), self.audio, total / source.fps)
        return Edit(
            frame_chunks=lambda: retaken_frames(source, sampled.frames(), self.video, total, self.paste),
            audio_chunks=lambda: iter((track,)),
            frame_count=total,
            width=sampled.clip.width,
            height=sampled.clip.height,
            fps=source.fps,
            rate=rate,
            settings={**sampled.settings(), "retake": self.settings},
        )

    def describe(self) -> str:
        mask = AVLatent(self.video.float().view(1, 1, -1, 1, 1), self.audio.float().view(1, 1, -1, 1))
        return "\n".join(str(stream) for stream in covered(mask, self.source.fps))


def plan_retake(
    source: Footage,
    video: Sequence[Region],
    audio: Sequence[Region],
    rounding: Rounding,
    *,
    paste: bool = True,
    stages: int,
    numerics: Numerics,
) -> Retake:
    """Plan a retake of regions in seconds.

    Raises ValueError if nothing is to be regenerated, or for regions that end before they begin.
    """
    video, audio = check_regions(video), check_regions(audio)
    regions = (*video, *audio)
    # A source without audio always has something to generate: its audio.
    if not any(start < end for start, end in regions) and source.audio is not None:
        raise ValueError("nothing is to be regenerated: set a region of the video or of the audio")
    last_frame = round(max([source.seconds, *(end for _, end in regions)]) * source.fps)
    extends = last_frame > len(source.frames)
    # Only 8k + 1 frames can be encoded; a retake preserves the rest as it is.
    usable = frames_of(latent_frames_of(len(source.frames)))
    clip = source.plan(last_frame if extends else usable, stages=stages, numerics=numerics)
    new_video = video_cells(video, clip.latent_frames, source.fps, rounding)
    # There is no source to preserve after its last latent frame.
    new_video[latent_frames_of(usable) :] = True
    new_audio = audio_cells(audio, clip.audio_latents, rounding)
    # The last latent of the source's audio may end up to one latent after its last frame.
    audio_s = (source.seconds if extends else clip.seconds) + 0.05 if source.audio is not None else 0.0
    new_audio[audio_positions(len(new_audio))[0, 0, :, 1] > audio_s] = True
    return Retake(
        source=source,
        clip=clip,
        usable_frames=usable,
        frame_count=last_frame if extends else len(source.frames),
        video=new_video,
        audio=new_audio,
        paste=paste,
        settings={"video": [*video], "audio": [*audio], "rounding": rounding.value, "paste": paste},
    )


def retaken_frames(
    source: Footage, sampled: Iterator[Tensor], regenerated: Tensor, total: int, paste: bool
) -> Iterator[Tensor]:
    """``total`` frames in chunks (N, 3, H, W) in [-1, 1], from sampled chunks of the same range.

    With ``paste`` the frames of latents that are not ``regenerated`` (F,) are the source's. Frames after the
    last sampled one are the source's in any case.
    """
    position = 0
    for chunk in sampled:
        chunk = chunk[: total - position]
        if paste:
            # The chunk belongs to the caller, so the source's frames go into a copy.
            chunk = chunk.clone()
            own = source.frames[position : position + len(chunk)]
            for number in range(len(own)):
                # Latent frame 0 stands for frame 0, and each later one for eight frames.
                if not regenerated[latent_frames_of(position + number + 8) - 1]:
                    chunk[number] = to_signed(own[number])
        position += len(chunk)
        yield chunk
    if position < total:
        yield to_signed(source.frames[position:total])


def retaken_audio(source: Footage, sampled: Waveform, regenerated: Tensor, seconds: float) -> Waveform:
    """Exactly ``seconds`` of audio: sampled where ``regenerated`` (T,) says so, elsewhere the source's."""
    waveform, rate, channels = matched_audio(source, sampled)
    samples = round(seconds * rate)
    preserved = source.track(channels, rate, seconds)
    new = torch.zeros(channels, samples)
    new[:, : min(samples, waveform.shape[1])] = waveform[:, :samples]
    weight = torch.zeros(samples)
    spans = audio_positions(len(regenerated))[0, 0]
    for start, end in spans[regenerated].tolist():
        # The clip may be longer than its last audio latent, whose region then extends to the end.
        last = samples if end >= float(spans[-1, 1]) else round(end * rate)
        weight[round(start * rate) : last] = 1
    if source.audio is not None:
        weight = _ramps(weight, round(FADE_S * rate))
    # A lerp of weight 0 rounds, and preserved samples are exact.
    return torch.where(weight == 0, preserved, torch.lerp(preserved, new, weight)), rate


def _ramps(weight: Tensor, length: int) -> Tensor:
    """A 0 / 1 weight (S,) whose steps are linear ramps of ``length`` samples, inside the ones."""
    # Replicated ends: a region at the start or the end of the clip has nothing to fade to there.
    padded = functional.pad(weight[None, None], (length, length), mode="replicate")
    # In float64, because float32 counts only to 2^24, six minutes at 48 kHz.
    sums = padded[0, 0].double().cumsum(0)
    width = 2 * length + 1
    mean = (sums[width - 1 :] - torch.cat((sums.new_zeros(1), sums[:-width]))) / width
    return ((mean - 0.5) * 2).clamp(0, 1).float() * weight
