"""Training tasks: which part of each clip is conditioning, and which part the model has to generate.

Every kind of conditioning that inference offers is trained with some probability. Drawn for each clip: a
first frame, a whole stream, or everything outside a region of time. Drawn for each batch: guides, which are
the last frame, or the first and the last one. Letters: B batch, F H W latent grid, T audio latents.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..conditioning.patchify import video_positions
from ..shapes import AUDIO_LATENTS_PER_SECOND, frames_of
from ..types import AVLatent
from .data import noise_like, to_device
from .latents import Sample
from .text import TextBatch


@dataclass(frozen=True, kw_only=True)
class FlowOptions:
    """How often each task is drawn, as probabilities, and the distribution of noise levels.

    A task says what of a clip is conditioning: ``first_frame``, the whole ``input_audio`` or
    ``input_video``, ``guides`` (its last frame), or with ``region`` all outside a few seconds. A clip has at
    most one of ``input_audio``, ``input_video`` and ``region``. ``shift`` of None is the official trainer's.
    """

    unconditional: float = 0.1
    """Share of captions that are replaced by an unconditional one."""
    first_frame: float = 0.2
    """Share of clips whose first latent frame is conditioning."""
    input_audio: float = 0.12
    """Share of clips whose audio is conditioning."""
    input_video: float = 0.12
    """Share of clips whose video is conditioning."""
    region: float = 0.15
    """Share of clips of which only a random region of time is generated, in one stream or both. Half of them
    preserve another clip's content outside, so that the model follows the text where it contradicts the
    surroundings."""
    guides: float = 0.2
    """Share of batches, not of clips, with the last frame as a guide; half of these have the first too."""
    slots: float = 0.0
    """Share of batches whose last frame the model generates a second time, as a keyframe next to the clip."""
    audio_weight: float = 1.0
    """Weight of the audio error in the loss."""
    shift: float | None = None
    """Shift of the noise levels; by default that of the official trainer for the number of tokens."""
    uniform: float = 0.1
    """Share of noise levels that are drawn uniformly."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """The task of each clip of a batch: noise and its level, which latents to generate, and conditioning.

    Where ``mask`` is 1 the latents are generated; where it is 0 the model gets those of ``conditioning``.
    """

    sigma: Tensor
    """Noise levels (B,)."""
    mask: AVLatent
    """Video (B, 1, F, 1, 1) and audio (B, 1, T, 1): 1 where to generate, 0 on conditioning."""
    conditioning: AVLatent
    """Clean latents that the model gets where the mask is 0."""
    noise: AVLatent
    """Standard normal noise of the shape of the latents."""


class Guides(NamedTuple):
    """Latents (B, 128, G, H, W) of G single frames, and the numbers of the pixel frames that they guide."""

    latent: Tensor
    frames: tuple[int, ...]


class Keyframes(NamedTuple):
    """K single frames that the model generates next to the clip, as LTX-2.5 can.

    ``latent`` (B, 128, K, H, W) are their clean latents, ``noise`` is of the same shape, and ``frames`` are
    the numbers of the pixel frames that they stand for.
    """

    latent: Tensor
    noise: Tensor
    frames: tuple[int, ...]

    def noised(self, sigma: Tensor) -> Tensor:
        """Mix the clean latents with noise at the levels ``sigma`` (B,)."""
        return torch.lerp(self.latent, self.noise, sigma.view(-1, 1, 1, 1, 1))

    def map(self, change: Callable[[Tensor], Tensor]) -> Keyframes:
        """A copy with ``change`` applied to latents and noise."""
        return Keyframes(change(self.latent), change(self.noise), self.frames)


def draw_sigmas(
    count: int, tokens: int, generator: torch.Generator, *, shift: float | None = None, uniform: float = 0.1
) -> Tensor:
    """Draw noise levels (count,) in (0, 1]: sigmoids of normal numbers with mean ``shift`` and deviation 1.

    They are stretched: the 0.5th percentile goes to 0 and the 99.9th to 1. The default shift is that of the
    official trainer: linear in the number of video ``tokens``, 0.95 at 1024 and 2.05 from 4096 on. A share
    ``uniform`` of the levels is drawn from the uniform distribution instead.
    """
    low, few, high, many = 0.95, 1024, 2.05, 4096
    # Not extrapolated beyond 4096 tokens, unlike the schedule of inference: the official trainer clamps here.
    mu = low + (high - low) * (min(tokens, many) - few) / (many - few) if shift is None else shift
    drawn = torch.sigmoid(torch.randn(count, generator=generator) + mu)
    # Normal quantiles of 0.5 and 99.9 per cent.
    bottom, top = (1 / (1 + math.exp(-mu - z)) for z in (-2.5758, 3.0902))
    # Levels below 0 are reflected; 0 itself does not occur, as nothing would be left to predict.
    stretched = ((drawn - bottom) / (top - bottom)).abs().clamp(_SMALLEST, 1)
    even = torch.rand(count, generator=generator) * (1 - _SMALLEST) + _SMALLEST
    return torch.where(torch.rand(count, generator=generator) < uniform, even, stretched)


_SMALLEST = 1e-3


def draw_task(sample: Sample, options: FlowOptions, generator: torch.Generator) -> Task:
    """Draw noise, noise levels and conditioning for each clip of ``sample``, on its device.

    ``options`` says how often each kind of conditioning is drawn.
    """
    latent = sample.latent
    assert latent.video is not None
    assert latent.audio is not None
    batch, tokens, device = len(latent.video), latent.video[0, 0].numel(), latent.video.device
    sigma = draw_sigmas(batch, tokens, generator, shift=options.shift, uniform=options.uniform)
    video = torch.ones(batch, 1, latent.video.shape[2], 1, 1)
    audio = torch.ones(batch, 1, latent.audio.shape[2], 1)
    of_other_clip = torch.zeros(batch, dtype=torch.bool)
    # All chances at once, so that the share of one task does not change the draws of others.
    chances = torch.rand(batch, 6, generator=generator).tolist()
    for index, (kind, first, other, streams, *region_at) in enumerate(chances):
        if kind < options.input_audio:
            audio[index] = 0
        elif kind < options.input_audio + options.input_video:
            # A first frame would have no effect on a whole video that is conditioning.
            video[index] = 0
            continue
        elif kind < options.input_audio + options.input_video + options.region:
            region = _random_region(latent, sample.fps, streams, region_at)
            assert region.video is not None
            assert region.audio is not None
            video[index], audio[index] = region.video[0], region.audio[0]
            of_other_clip[index] = other < 0.5
            continue
        if first < options.first_frame:
            video[index, :, :1] = 0
    spliced = to_device(of_other_clip, device)

    def conditioning(x: Tensor) -> Tensor:
        # The clip before in the batch, whose caption is another one.
        return torch.where(spliced.view(-1, *[1] * (x.ndim - 1)), x.roll(1, 0), x)

    return Task(
        sigma=to_device(sigma, device),
        mask=AVLatent(to_device(video, device), to_device(audio, device)),
        conditioning=latent.map(conditioning),
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
    """Masks for video (1, 1, F, 1, 1) and audio (1, 1, T, 1) that select a region of time.

    ``latent`` gives the lengths F and T, ``fps`` the pixel frames per second. A latent frame is 1, to be
    generated, if its centre is in [start_s, end_s) seconds, and otherwise 0. With ``video`` or ``audio``
    False the mask of that stream is 0 throughout.
    """
    assert latent.video is not None
    assert latent.audio is not None
    video_s = video_positions(latent.video.shape[2], 1, 1, fps)[0, 0].mean(dim=-1)
    audio_s = (torch.arange(latent.audio.shape[2]) + 0.5) / AUDIO_LATENTS_PER_SECOND
    inside_video, inside_audio = (((at >= start_s) & (at < end_s)).float() for at in (video_s, audio_s))
    return AVLatent(
        (inside_video * video)[None, None, :, None, None], (inside_audio * audio)[None, None, :, None]
    )


def _random_region(latent: AVLatent, fps: float, streams: float, region_at: Sequence[float]) -> AVLatent:
    """Masks (see :func:`time_region`) of a random region of 20 to 80 % of the clip.

    ``streams``, uniform in [0, 1), decides whether the region is in both streams or, with a chance of a
    quarter each, in one. ``region_at`` are two such numbers, for the length and the start of the region.
    """
    assert latent.audio is not None
    seconds = latent.audio.shape[2] / AUDIO_LATENTS_PER_SECOND
    length = (0.2 + 0.6 * region_at[0]) * seconds
    start = region_at[1] * (seconds - length)
    mask = time_region(latent, fps, start, start + length, video=streams < 0.75, audio=streams >= 0.25)
    # A short region may contain no centre of a video latent, and the video would have nothing to generate.
    if mask.video is not None and not bool(mask.video.any()):
        return replace(mask, video=mask.video if streams >= 0.75 else torch.ones_like(mask.video))
    return mask


def drop_text(
    text: TextBatch, unconditional: TextBatch, share: float, generator: torch.Generator
) -> TextBatch:
    """Replace a random ``share`` of the captions of ``text`` by random prompts of ``unconditional``."""
    # Both padded alike, so that rows of either can be chosen.
    length = max(text.mask.shape[1], unconditional.mask.shape[1])
    own, others = text.padded(length), unconditional.padded(length)
    chance, which = torch.rand(2, len(text.mask), generator=generator)
    drop = to_device(chance < share, text.mask.device)
    index = to_device((which * len(others.mask)).long(), text.mask.device)
    return TextBatch(
        torch.where(drop[:, None, None, None], others.hidden[index], own.hidden),
        torch.where(drop[:, None], others.mask[index], own.mask),
    )


def draw_guides(sample: Sample, options: FlowOptions, generator: torch.Generator) -> Guides | None:
    """Draw the guides of a batch: the last frame of each clip, its first and last frame, or no guides (None).

    A guide is a frame of the clip that the model gets as conditioning. ``options`` says how often there
    are guides; without latents of last frames in ``sample`` there are none.
    """
    chance, both = torch.rand(2, generator=generator).tolist()
    if sample.last is None or chance >= options.guides:
        return None
    assert sample.latent.video is not None
    first = sample.latent.video[:, :, :1]
    last = frames_of(sample.latent.video.shape[2]) - 1
    if both < 0.5:
        return Guides(torch.cat((first, sample.last), dim=2), (0, last))
    return Guides(sample.last, (last,))


def draw_keyframes(sample: Sample, options: FlowOptions, generator: torch.Generator) -> Keyframes | None:
    """Draw the keyframes that a batch generates next to its clips: the last frame of each, or None.

    ``options`` says how often; with a chance of 0 nothing is drawn from ``generator``.
    """
    if options.slots == 0 or sample.last is None:
        return None
    if float(torch.rand((), generator=generator)) >= options.slots:
        return None
    assert sample.latent.video is not None
    last = frames_of(sample.latent.video.shape[2]) - 1
    return Keyframes(sample.last, noise_like(sample.last, generator), (last,))
