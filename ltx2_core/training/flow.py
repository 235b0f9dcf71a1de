"""Flow matching of both streams at once: the transformer learns velocities ``noise - x0``.

Given tokens have timestep 0 and no loss, and a stream without anything to generate sigma 0, as in the
official trainer. Letters: B batch, F H W latent grid, N tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..conditioning.masks import blend, expand_mask, token_mask
from ..conditioning.patchify import patchify_audio, patchify_video
from ..text import CONTEXT_LENGTH
from ..transformer import Modality
from ..types import AVLatent, TextContext
from .latents import Sample
from .network import FlowNetwork, Grid, Places
from .recorded import Drawn
from .tasks import FlowOptions, Guides, Task, draw_guides, draw_task, drop_text
from .text import TextBatch


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
class FlowBatch(Drawn):
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
