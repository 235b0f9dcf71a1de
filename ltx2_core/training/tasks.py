"""What each clip of a training batch is given, and what it is asked to make of it.

What is given to the model at its use is given here too, sample by sample: a first frame, a whole stream, all
but a stretch of time; and batch by batch, first and last frames as guides.
Letters: B batch, F H W latent grid, T audio latents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..conditioning.patchify import video_positions
from ..shapes import AUDIO_LATENTS_PER_SECOND, frames_of
from ..types import AVLatent
from .data import noise_like, sent
from .latents import Sample
from .text import TextBatch


@dataclass(frozen=True, kw_only=True)
class FlowOptions:
    """What a step is made of; shares are probabilities for each sample.

    ``audio_given``, ``video_given`` and ``region`` exclude each other; a first frame may come with given or
    generated audio. ``region`` keeps all but a random stretch of time of one stream or both; half of the
    kept content is another clip's, so that text is obeyed where it contradicts what surrounds it.
    """

    unconditional: float = 0.1
    first_frame: float = 0.2
    audio_given: float = 0.12
    video_given: float = 0.12
    region: float = 0.15
    guides: float = 0.2
    """Of steps, not of samples: the last frame is shown as a guide, half of the time the first one too."""
    audio_weight: float = 1.0
    shift: float | None = None
    """Of the noise levels; by default that of the official trainer for the clip's tokens."""
    uniform: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is asked of the model: ``mask`` 1 where to generate; ``given`` is shown where it is 0."""

    sigma: Tensor
    mask: AVLatent
    given: AVLatent
    noise: AVLatent


class Guides(NamedTuple):
    """Latents (B, 128, G, H, W) of single pictures, and the pixel frames at which they are shown."""

    latent: Tensor
    frames: tuple[int, ...]


def draw_sigmas(
    count: int, tokens: int, generator: torch.Generator, *, shift: float | None = None, uniform: float = 0.1
) -> Tensor:
    """Noise levels (count,) in (0, 1]: sigmoid(N(shift, 1)), stretched to reach both ends, some uniform.

    The shift grows linearly in ``tokens``, from 0.95 at 1024 to 2.05 at 4096 where it stops. The stretch maps
    the 0.5th and 99.9th percentile to 0 and 1.
    """
    low, few, high, many = 0.95, 1024, 2.05, 4096
    mu = low + (high - low) * (min(tokens, many) - few) / (many - few) if shift is None else shift
    drawn = torch.sigmoid(torch.randn(count, generator=generator) + mu)
    bottom, top = (1 / (1 + math.exp(-mu - z)) for z in (-2.5758, 3.0902))
    stretched = ((drawn - bottom) / (top - bottom)).abs().clamp(_SMALLEST, 1)
    even = torch.rand(count, generator=generator) * (1 - _SMALLEST) + _SMALLEST
    return torch.where(torch.rand(count, generator=generator) < uniform, even, stretched)


_SMALLEST = 1e-3


def draw_task(sample: Sample, options: FlowOptions, generator: torch.Generator) -> Task:
    """Noise, noise levels and what is given, for every clip of ``sample``, on its device."""
    latent = sample.latent
    assert latent.video is not None and latent.audio is not None
    batch, tokens, device = len(latent.video), latent.video[0, 0].numel(), latent.video.device
    sigma = draw_sigmas(batch, tokens, generator, shift=options.shift, uniform=options.uniform)
    video = torch.ones(batch, 1, latent.video.shape[2], 1, 1)
    audio = torch.ones(batch, 1, latent.audio.shape[2], 1)
    foreign = torch.zeros(batch, dtype=torch.bool)
    chances = torch.rand(batch, 6, generator=generator).tolist()
    for index, (kind, first, spliced, streams, *where) in enumerate(chances):
        if kind < options.audio_given:
            audio[index] = 0
        elif kind < options.audio_given + options.video_given:
            video[index] = 0
            continue
        elif kind < options.audio_given + options.video_given + options.region:
            region = _random_region(latent, sample.fps, streams, where)
            assert region.video is not None and region.audio is not None
            video[index], audio[index] = region.video[0], region.audio[0]
            foreign[index] = spliced < 0.5
            continue
        if first < options.first_frame:
            video[index, :, :1] = 0
    other = sent(foreign, device)

    def given(x: Tensor) -> Tensor:
        return torch.where(other.view(-1, *[1] * (x.ndim - 1)), x.roll(1, 0), x)

    return Task(
        sigma=sent(sigma, device),
        mask=AVLatent(sent(video, device), sent(audio, device)),
        given=latent.map(given),
        noise=latent.map(lambda x: noise_like(x, generator)),
    )


def time_region(
    latent: AVLatent,
    fps: float,
    start_s: float,
    end_s: float,
    *,
    video: bool = True,
    audio: bool = True,
) -> AVLatent:
    """A mask (1, 1, F, 1, 1) and (1, 1, T, 1): 1 on latents whose middle is in [start_s, end_s).

    A stream that is not to be changed is 0 throughout.
    """
    assert latent.video is not None and latent.audio is not None
    frames = video_positions(latent.video.shape[2], 1, 1, fps)[0, 0].mean(dim=-1)
    sounds = (torch.arange(latent.audio.shape[2]) + 0.5) / AUDIO_LATENTS_PER_SECOND
    inside_video, inside_audio = (((at >= start_s) & (at < end_s)).float() for at in (frames, sounds))
    return AVLatent(
        (inside_video * video)[None, None, :, None, None], (inside_audio * audio)[None, None, :, None]
    )


def _random_region(latent: AVLatent, fps: float, streams: float, where: Sequence[float]) -> AVLatent:
    """Between 20 and 80 % of the time, of both streams or (one time in four each) of one."""
    assert latent.audio is not None
    seconds = latent.audio.shape[2] / AUDIO_LATENTS_PER_SECOND
    length = (0.2 + 0.6 * where[0]) * seconds
    start = where[1] * (seconds - length)
    mask = time_region(latent, fps, start, start + length, video=streams < 0.75, audio=streams >= 0.25)
    if mask.video is not None and not bool(mask.video.any()):
        return replace(mask, video=mask.video if streams >= 0.75 else torch.ones_like(mask.video))
    return mask


def drop_text(
    text: TextBatch, unconditional: TextBatch, share: float, generator: torch.Generator
) -> TextBatch:
    """A ``share`` of captions replaced by any of the ``unconditional`` ones."""
    length = max(text.mask.shape[1], unconditional.mask.shape[1])
    own, others = text.padded(length), unconditional.padded(length)
    chance, which = torch.rand(2, len(text.mask), generator=generator)
    drop = sent(chance < share, text.mask.device)
    row = sent((which * len(others.mask)).long(), text.mask.device)
    return TextBatch(
        torch.where(drop[:, None, None, None], others.hidden[row], own.hidden),
        torch.where(drop[:, None], others.mask[row], own.mask),
    )


def draw_guides(sample: Sample, options: FlowOptions, generator: torch.Generator) -> Guides | None:
    """The last frame of every clip, or the first and the last, or nothing."""
    chance, both = torch.rand(2, generator=generator).tolist()
    if sample.last is None or chance >= options.guides:
        return None
    assert sample.latent.video is not None
    first = sample.latent.video[:, :, :1]
    last = frames_of(sample.latent.video.shape[2]) - 1
    if both < 0.5:
        return Guides(torch.cat((first, sample.last), dim=2), (0, last))
    return Guides(sample.last, (last,))
