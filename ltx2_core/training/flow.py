"""Flow matching of both streams at once: the transformer learns the velocity ``noise - x0``.

As in the official trainer, conditioning tokens have timestep 0 and no loss, and a stream with nothing to
generate has sigma 0. Letters: B batch, F H W latent grid, N tokens, C channels.
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
from .network import FlowNetwork, Grid, TokenLayout
from .recorded import StepInputs
from .tasks import (
    FlowOptions,
    Guides,
    Keyframes,
    Task,
    draw_guides,
    draw_keyframes,
    draw_task,
    drop_text,
)
from .text import TextBatch


def predict(
    network: FlowNetwork,
    x: AVLatent,
    task: Task,
    sigma: Tensor,
    context: TextContext,
    fps: float,
    *,
    keyframes: Keyframes | None = None,
    guides: Guides | None = None,
    reference: Tensor | None = None,
    reference_scale: int = 1,
) -> AVLatent:
    """Predict the velocities of both streams as tokens (B, N, C).

    The video's are those of the clip, then those of ``keyframes``.

    Args:
        network: transformer, connectors and projection.
        x: the noised latents; conditioning is clean.
        task: its mask says which tokens are conditioning.
        sigma: noise levels (B,).
        context: text context of both streams.
        fps: frames per second of the clips.
        keyframes: single frames that are generated next to the clip; or None.
        guides: clean latents of single frames, appended as tokens at the positions of their frames; or None.
        reference: clean latents (B, 128, F, H, W) of a control video, appended as tokens at the positions of
            the video, as for an IC-LoRA; or None.
        reference_scale: how many times coarser the grid of ``reference`` is than that of the video.
    """
    assert x.video is not None
    assert x.audio is not None
    mask = expand_mask(task.mask, x)
    assert mask.video is not None
    assert mask.audio is not None
    tokens, video_mask = patchify_video(x.video), token_mask(mask.video)
    audio_mask = token_mask(mask.audio)
    if keyframes is not None:
        slots = patchify_video(keyframes.noised(sigma))
        tokens = torch.cat((tokens, slots), dim=1)
        video_mask = torch.cat((video_mask, video_mask.new_ones(slots.shape[:2])), dim=1)
    generated = tokens.shape[1]
    layout = TokenLayout(
        _grid(x.video),
        x.audio.shape[2],
        fps,
        (() if keyframes is None else keyframes.frames) + (() if guides is None else guides.frames),
        None if reference is None else _grid(reference),
        reference_scale,
    )
    video_positions, audio_positions, rope = network.positions(layout, tokens.device)
    for clean in (None if guides is None else guides.latent, reference):
        if clean is None:
            continue
        # The order is that of ``FlowNetwork.positions``: the video, single frames, then the reference.
        appended = patchify_video(clean)
        tokens = torch.cat((tokens, appended), dim=1)
        video_mask = torch.cat((video_mask, video_mask.new_zeros(appended.shape[:2])), dim=1)
    video = Modality(
        tokens=tokens,
        # Conditioning tokens are clean, which a timestep of 0 states, as at inference.
        timesteps=video_mask * sigma[:, None],
        # A stream that is conditioning as a whole has sigma 0, so that the cross-modal gates of the other one
        # open as for a clean stream.
        sigma=sigma * (video_mask > 0).any(dim=1),
        positions=video_positions,
        context=context.video,
        keyframes=_single_frames(network, x.video, tokens, generated),
    )
    # Guides and references are of the video alone.
    audio = Modality(
        tokens=patchify_audio(x.audio),
        timesteps=audio_mask * sigma[:, None],
        sigma=sigma * (audio_mask > 0).any(dim=1),
        positions=audio_positions,
        context=context.audio,
    )
    v, a = network.transformer(video, audio, rope=rope)
    assert v is not None
    assert a is not None
    # Guide and reference tokens are appended and have no target.
    return AVLatent(v[:, :generated].float(), a.float())


def _single_frames(network: FlowNetwork, video: Tensor, tokens: Tensor, generated: int) -> Tensor | None:
    """Marks (B, N, 1) of the tokens that stand for one pixel frame, 1 on these; None for older models.

    They are those of the first latent frame of ``video`` (B, C, F, H, W), and of generated keyframes, which
    end at token number ``generated``; ``tokens`` (B, N, C) are all tokens.
    """
    if not network.transformer.config.keyframe_embedding:
        return None
    marks = tokens.new_zeros(*tokens.shape[:2], 1)
    marks[:, : video.shape[3] * video.shape[4]] = 1
    marks[:, video[0, 0].numel() : generated] = 1
    return marks


def _grid(latent: Tensor) -> Grid:
    frames, height, width = latent.shape[2:]
    return frames, height, width


def noised(clean: AVLatent, task: Task, sigma: Tensor) -> AVLatent:
    """Mix ``clean`` latents with noise where ``task.mask`` is 1; elsewhere return ``task.conditioning``.

    The mixture is ``(1 - sigma) clean + sigma noise`` with the noise of ``task``; ``sigma`` (B,) is the noise
    level of each of the B clips.
    """

    def mix(x: Tensor, noise: Tensor) -> Tensor:
        return torch.lerp(x, noise, sigma.view(-1, *[1] * (x.ndim - 1)))

    return blend(task.conditioning, clean.zip(task.noise, mix), task.mask)


def masked_error(
    prediction: AVLatent, target: AVLatent, task: Task, keyframes: Keyframes | None = None
) -> dict[str, Tensor]:
    """Mean squared error of each stream, over its tokens to generate only, by the mask of ``task``.

    ``prediction`` has tokens (B, N, C), those of ``keyframes`` behind the clip's, ``target`` latents. Returns
    scalars under the keys ``video`` and ``audio``; a stream with nothing to generate has error 0.
    """
    assert target.video is not None
    assert target.audio is not None
    mask = expand_mask(task.mask, target)
    tokens = AVLatent(patchify_video(target.video), patchify_audio(target.audio))
    weights = mask.map(token_mask)
    if keyframes is not None:
        slots = patchify_video(keyframes.noise - keyframes.latent)
        assert tokens.video is not None
        assert weights.video is not None
        ones = weights.video.new_ones(slots.shape[:2])
        tokens = replace(tokens, video=torch.cat((tokens.video, slots), dim=1))
        weights = replace(weights, video=torch.cat((weights.video, ones), dim=1))
    errors = prediction.zip(tokens, lambda p, t: (p - t).square().mean(dim=-1))
    # The clamp avoids 0 / 0 for a stream that is all conditioning.
    means = errors.zip(weights, lambda e, w: (e * w).sum() / w.sum().clamp(min=1))
    assert means.video is not None
    assert means.audio is not None
    return {"video": means.video, "audio": means.audio}


@dataclass(frozen=True, kw_only=True)
class FlowBatch(StepInputs):
    """The random inputs of one training step: clean latents, a task and a text for each clip.

    A task says which latents of a clip are conditioning and which are generated. ``context_length`` is the
    text context in tokens. ``guides`` are latents of single frames, ``reference`` (B, 128, F, H, W) those of
    a control video, and ``keyframes`` single frames that are generated, each None where there are none. The
    grid of the control video is ``reference_scale`` times coarser than that of the clip.
    """

    latent: AVLatent
    task: Task
    text: TextBatch
    context_length: int
    fps: float
    guides: Guides | None = None
    reference: Tensor | None = None
    reference_scale: int = 1
    keyframes: Keyframes | None = None

    @property
    def layout(self) -> object:
        """All values that are no tensors, as a tuple; steps in which it differs need separate CUDA graphs."""
        frames = None if self.guides is None else self.guides.frames
        slots = None if self.keyframes is None else self.keyframes.frames
        return self.context_length, self.fps, frames, self.reference_scale, slots

    def map(self, change: Callable[[Tensor], Tensor]) -> FlowBatch:
        """A copy with ``change`` applied to each tensor."""
        task = self.task
        return replace(
            self,
            latent=self.latent.map(change),
            task=Task(
                sigma=change(task.sigma),
                mask=task.mask.map(change),
                conditioning=task.conditioning.map(change),
                noise=task.noise.map(change),
            ),
            text=self.text.map(change),
            guides=None if self.guides is None else self.guides._replace(latent=change(self.guides.latent)),
            reference=None if self.reference is None else change(self.reference),
            keyframes=None if self.keyframes is None else self.keyframes.map(change),
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
    """Draw the random inputs of a training step: a task and a text for each clip of ``sample``.

    A task is noise, a noise level, and which latents are conditioning instead; ``options`` says how often
    each kind of conditioning is drawn. A share of the captions is replaced by those of ``unconditional``,
    which stand for no prompt. ``context_length`` (text tokens) and ``reference_scale`` (how many times
    coarser the grid of a control video is) are stored for :func:`flow_loss`.
    """
    return FlowBatch(
        latent=sample.latent,
        task=draw_task(sample, options, generator),
        text=drop_text(sample.text, unconditional, options.unconditional, generator),
        context_length=context_length,
        fps=sample.fps,
        guides=draw_guides(sample, options, generator),
        reference=sample.reference,
        reference_scale=reference_scale,
        # Drawn last, so that training without keyframes draws what it always drew.
        keyframes=draw_keyframes(sample, options, generator),
    )


def flow_loss(network: FlowNetwork, batch: FlowBatch, options: FlowOptions) -> dict[str, Tensor]:
    """Compute the flow-matching losses of one batch: scalars ``loss``, ``video`` and ``audio``.

    ``loss`` is the video error plus ``options.audio_weight`` times the audio error.
    """
    task = batch.task
    velocity = predict(
        network,
        noised(batch.latent, task, task.sigma),
        task,
        task.sigma,
        network.context(batch.text, batch.context_length),
        batch.fps,
        keyframes=batch.keyframes,
        guides=batch.guides,
        reference=batch.reference,
        reference_scale=batch.reference_scale,
    )
    # The velocity of a linear path from data to noise is their difference.
    errors = masked_error(velocity, task.noise - batch.latent, task, batch.keyframes)
    return {"loss": errors["video"] + options.audio_weight * errors["audio"], **errors}
