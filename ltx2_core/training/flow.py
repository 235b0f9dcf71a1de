"""Flow matching of both streams at once: the transformer learns velocities ``noise - x0``.

What is given to the model at its use is given here too, sample by sample: a first frame, a whole stream, all
but a stretch of time. Given tokens have timestep 0 and no loss, and a stream without anything to generate
sigma 0, as in the official trainer. Letters: B batch, F H W latent grid, T audio latents, N tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..conditioning.masks import blend, expand_mask, token_mask
from ..conditioning.patchify import patchify_audio, patchify_video, video_positions
from ..shapes import AUDIO_LATENTS_PER_SECOND, frames_of
from ..text import CONTEXT_LENGTH
from ..transformer import Modality
from ..types import AVLatent, TextContext
from .data import noise_like, sent
from .latents import Sample
from .network import FlowNetwork, Grid, Places
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


def predict(
    network: FlowNetwork,
    x: AVLatent,
    task: Task,
    sigma: Tensor,
    context: TextContext,
    fps: float,
    *,
    guides: Guides | None = None,
    reference: Tensor | None = None,
    reference_scale: int = 1,
) -> AVLatent:
    """Velocities of both streams, as tokens (B, N, C), of the state ``x`` at noise levels ``sigma`` (B,).

    ``guides`` are shown clean at their frames, and so is ``reference`` (B, 128, F, H, W) at the positions of
    the target, as an IC-LoRA is. Each of its cells stands for ``reference_scale`` squared ones.
    """
    assert x.video is not None and x.audio is not None
    mask = expand_mask(task.mask, x)
    assert mask.video is not None and mask.audio is not None
    tokens, video_mask = patchify_video(x.video), token_mask(mask.video)
    audio_mask = token_mask(mask.audio)
    own = tokens.shape[1]
    beside = None if reference is None else _grid(reference)
    at = () if guides is None else guides.frames
    key = Places(_grid(x.video), x.audio.shape[2], fps, at, beside, reference_scale)
    positions, heard, rope = network.places(key, tokens.device)
    for clean in (None if guides is None else guides.latent, reference):
        if clean is None:
            continue
        shown = patchify_video(clean)
        tokens = torch.cat((tokens, shown), dim=1)
        video_mask = torch.cat((video_mask, video_mask.new_zeros(shown.shape[:2])), dim=1)
    video = Modality(
        tokens=tokens,
        timesteps=video_mask * sigma[:, None],
        sigma=sigma * (video_mask > 0).any(dim=1),
        positions=positions,
        context=context.video,
    )
    audio = Modality(
        tokens=patchify_audio(x.audio),
        timesteps=audio_mask * sigma[:, None],
        sigma=sigma * (audio_mask > 0).any(dim=1),
        positions=heard,
        context=context.audio,
    )
    v, a = network.transformer(video, audio, rope=rope)
    assert v is not None and a is not None
    return AVLatent(v[:, :own].float(), a.float())


class Guides(NamedTuple):
    """Latents (B, 128, G, H, W) of single pictures, and the pixel frames at which they are shown."""

    latent: Tensor
    frames: tuple[int, ...]


def _grid(latent: Tensor) -> Grid:
    frames, height, width = latent.shape[2:]
    return frames, height, width


def noised(clean: AVLatent, task: Task, sigma: Tensor) -> AVLatent:
    """``(1 - sigma) clean + sigma noise`` where to generate, and what is given elsewhere."""

    def mix(x: Tensor, noise: Tensor) -> Tensor:
        return torch.lerp(x, noise, sigma.view(-1, *[1] * (x.ndim - 1)))

    return blend(task.given, clean.zip(task.noise, mix), task.mask)


def masked_error(prediction: AVLatent, target: AVLatent, task: Task) -> dict[str, Tensor]:
    """Mean squared errors of ``video`` and ``audio`` tokens over what is generated."""
    assert target.video is not None and target.audio is not None
    mask = expand_mask(task.mask, target)
    tokens = AVLatent(patchify_video(target.video), patchify_audio(target.audio))
    weights = mask.map(token_mask)
    errors = prediction.zip(tokens, lambda p, t: (p - t).square().mean(dim=-1))
    means = errors.zip(weights, lambda e, w: (e * w).sum() / w.sum().clamp(min=1))
    assert means.video is not None and means.audio is not None
    return {"video": means.video, "audio": means.audio}


@dataclass(frozen=True, kw_only=True)
class FlowBatch:
    """One step's clips, what is asked about them, and what the text says."""

    latent: AVLatent
    task: Task
    text: TextBatch
    context_length: int
    fps: float
    guides: Guides | None = None
    edges: Tensor | None = None
    reference_scale: int = 1

    @property
    def layout(self) -> object:
        """What is no tensor."""
        frames = None if self.guides is None else self.guides.frames
        return self.context_length, self.fps, frames, self.reference_scale

    def map(self, change: Callable[[Tensor], Tensor]) -> FlowBatch:
        """Every tensor changed."""
        task = self.task
        return replace(
            self,
            latent=self.latent.map(change),
            task=Task(
                sigma=change(task.sigma),
                mask=task.mask.map(change),
                given=task.given.map(change),
                noise=task.noise.map(change),
            ),
            text=self.text.map(change),
            guides=None if self.guides is None else self.guides._replace(latent=change(self.guides.latent)),
            edges=None if self.edges is None else change(self.edges),
        )

    def copied(self) -> FlowBatch:
        """With tensors of its own."""
        return self.map(torch.clone)

    def tensors(self) -> list[Tensor]:
        """All of them, in the order in which they are named."""
        found: list[Tensor] = []

        def keep(tensor: Tensor) -> Tensor:
            found.append(tensor)
            return tensor

        self.map(keep)
        return found


def draw_flow(
    sample: Sample,
    options: FlowOptions,
    unconditional: TextBatch,
    generator: torch.Generator,
    *,
    context_length: int = CONTEXT_LENGTH,
    reference_scale: int = 1,
) -> FlowBatch:
    """A task for every clip, and some captions left out; a sample with edges is shown them as a reference."""
    return FlowBatch(
        latent=sample.latent,
        task=draw_task(sample, options, generator),
        text=drop_text(sample.text, unconditional, options.unconditional, generator),
        context_length=context_length,
        fps=sample.fps,
        guides=draw_guides(sample, options, generator),
        edges=sample.edges,
        reference_scale=reference_scale,
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


def flow_loss(network: FlowNetwork, batch: FlowBatch, options: FlowOptions) -> dict[str, Tensor]:
    """``loss`` and its parts for one batch."""
    task = batch.task
    velocity = predict(
        network,
        noised(batch.latent, task, task.sigma),
        task,
        task.sigma,
        network.context(batch.text, batch.context_length),
        batch.fps,
        guides=batch.guides,
        reference=batch.edges,
        reference_scale=batch.reference_scale,
    )
    errors = masked_error(velocity, task.noise - batch.latent, task)
    return {"loss": errors["video"] + options.audio_weight * errors["audio"], **errors}
