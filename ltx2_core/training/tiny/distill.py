"""Distillation: a LoRA, the student, learns to do in one step what its guided teacher does in several.

After Salimans and Ho, "Progressive distillation" (2022), with the guidance of the teacher folded in as in
Meng et al. (2023). The teacher is the model without the LoRA. A clip is noised to the upper noise level of
one step of the student's short schedule. The teacher samples to the lower level in several small steps, and
the student learns the velocity that gets there in one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ...conditioning.masks import blend
from ...conditioning.patchify import unpatchify_audio, unpatchify_video
from ...sampling.schedules import DISTILLED_SIGMAS
from ...text import CONTEXT_LENGTH
from ...types import AVLatent, TextContext
from ..data import to_device
from ..flow import FlowBatch, masked_error, noised, predict
from ..latents import Sample
from ..lora import LoraAdapters
from ..network import FlowNetwork
from ..recorded import StepInputs
from ..tasks import FlowOptions, Task, draw_task
from ..text import TextBatch


@dataclass(frozen=True, kw_only=True)
class DistillOptions:
    """The sampling schedule of the student, and how the teacher samples."""

    sigmas: tuple[float, ...] = tuple(DISTILLED_SIGMAS.tolist())
    """Noise levels of the student. Those of a second stage are the last of them, so one LoRA serves both
    stages."""
    substeps: int = 4
    """Steps of the teacher for each step of the student."""
    cfg: float = 3.0
    """CFG scale of the teacher, of both streams."""
    early: float = 0.3
    """Share of clips in the first, small intervals; the others are spread evenly over the large ones."""
    mixed: float = 0.3
    """Share of clips at noise levels above 0.9 that start from another clip. A second stage starts from the
    result of the first one, which may differ from the prompt."""


@dataclass(frozen=True, kw_only=True)
class DistillBatch(StepInputs):
    """The random inputs of a training step: clips, tasks, text, and two noise levels for each clip.

    The student goes from noise level ``upper`` (B,) to ``lower`` (B,) in one step. ``flow`` has clips, tasks
    and captions, ``negative`` the negative prompt.
    """

    flow: FlowBatch
    negative: TextBatch
    upper: Tensor
    lower: Tensor

    @property
    def layout(self) -> object:
        return self.flow.layout

    def map(self, change: Callable[[Tensor], Tensor]) -> DistillBatch:
        return DistillBatch(
            flow=self.flow.map(change),
            negative=self.negative.map(change),
            upper=change(self.upper),
            lower=change(self.lower),
        )


def draw_distill(
    sample: Sample,
    options: DistillOptions,
    tasks: FlowOptions,
    negative: TextBatch,
    generator: torch.Generator,
    *,
    context_length: int = CONTEXT_LENGTH,
) -> DistillBatch:
    """Draw the random inputs of a training step for the clips of ``sample``.

    All clips get the same random prompt of ``negative``. ``tasks`` says how often clips have conditioning,
    ``context_length`` is the text context in tokens.
    """
    task = draw_task(sample, tasks, generator)
    upper, lower = (to_device(s, task.sigma.device) for s in _interval(len(task.sigma), options, generator))
    which = int(torch.randint(len(negative.mask), (1,), generator=generator))
    chosen = to_device(torch.rand(len(upper), generator=generator) < options.mixed, upper.device) & (
        upper > 0.9
    )
    return DistillBatch(
        flow=FlowBatch(
            latent=sample.latent.map(partial(_next_where, chosen)),
            task=task,
            text=sample.text,
            context_length=context_length,
            fps=sample.fps,
        ),
        negative=negative.map(partial(_repeated, which, len(upper))),
        upper=upper,
        lower=lower,
    )


def distill_loss(
    network: FlowNetwork, adapters: LoraAdapters, batch: DistillBatch, options: DistillOptions
) -> dict[str, Tensor]:
    """Compute the losses of a step: scalars "video", "audio" and "loss", their sum.

    Each is the mean squared difference of the student's velocity and the target velocity: the one with which
    a single step ends where the guided teacher ends after several. ``adapters`` is the student's LoRA, on the
    transformer of ``network``.
    """
    flow, upper, lower = batch.flow, batch.upper, batch.lower
    with torch.no_grad():
        positive = network.context(flow.text, flow.context_length)
        negative = network.context(batch.negative, flow.context_length)
        start = noised(flow.latent, flow.task, upper)
        # The teacher is the network without the LoRA that is trained.
        with adapters.disabled():
            end = _teach(network, start, flow.task, upper, lower, (positive, negative), flow.fps, options)
        gap = (upper - lower).clamp(min=1e-6)
        target = (start - end).map(partial(_scaled, by=1 / gap))
    velocity = predict(network, start, flow.task, upper, positive, flow.fps)
    errors = masked_error(velocity, target, flow.task)
    return {"loss": errors["video"] + errors["audio"], **errors}


def _interval(count: int, options: DistillOptions, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw neighbouring entries of the student's schedule: upper and lower noise levels, each (count,).

    ``options`` has the schedule, and how often its first, small intervals are drawn.
    """
    sigmas = torch.tensor(options.sigmas)
    # The first four steps of the published schedule are 0.00625 long and alike, so that drawing all steps
    # equally often would spend half of the training on them.
    large = sigmas[:-1] - sigmas[1:] > _SMALL
    weights = torch.where(large, 1 / large.sum().clamp(min=1), 0.0)
    if bool((~large).any()):
        weights = (1 - options.early) * weights + options.early * torch.where(large, 0.0, 1 / (~large).sum())
    step = torch.multinomial(weights, count, replacement=True, generator=generator)
    return sigmas[step], sigmas[step + 1]


_SMALL = 0.02
"""Largest interval of noise levels that counts as small."""


def _teach(
    network: FlowNetwork,
    x: AVLatent,
    task: Task,
    upper: Tensor,
    lower: Tensor,
    contexts: tuple[TextContext, TextContext],
    fps: float,
    options: DistillOptions,
) -> AVLatent:
    """Sample each clip from noise level ``upper`` (B,) to ``lower`` (B,) with the guided teacher.

    The teacher takes ``options.substeps`` Euler steps from the noised latents ``x``. Where the mask of
    ``task`` is 0 the latents stay its conditioning. ``contexts`` are the text contexts of the captions and of
    the negative prompts, ``fps`` the frames per second of the clips. Returns the latents at ``lower``.
    """
    assert x.video is not None
    assert x.audio is not None
    grid, bins = x.video.shape[2:], x.audio.shape[3]
    for step in range(options.substeps):
        # Equal steps within the interval; each clip of a batch has an interval of its own.
        sigma = upper + (lower - upper) * (step / options.substeps)
        change = (lower - upper) / options.substeps
        # One after the other: a batch of both would take twice the memory.
        positive, negative = (predict(network, x, task, sigma, context, fps) for context in contexts)
        tokens = negative + (positive - negative) * options.cfg
        assert tokens.video is not None
        assert tokens.audio is not None
        velocity = AVLatent(unpatchify_video(tokens.video, *grid), unpatchify_audio(tokens.audio, bins))
        # As in sampling, preserved latents stay clean at every step.
        x = blend(task.conditioning, x + velocity.map(partial(_scaled, by=change)), task.mask)
    return x


def _next_where(chosen: Tensor, x: Tensor) -> Tensor:
    """Replace clips of a batch ``x`` (B, ...) by the next clip of the batch where ``chosen`` (B,) is True."""
    return torch.where(chosen.view(-1, *[1] * (x.ndim - 1)), x.roll(-1, 0), x)


def _repeated(index: int, count: int, tensor: Tensor) -> Tensor:
    """The entry number ``index`` of a tensor (N, ...), expanded to (count, ...)."""
    return tensor[index : index + 1].expand(count, *tensor.shape[1:])


def _scaled(x: Tensor, by: Tensor) -> Tensor:
    """Multiply each clip of ``x`` (B, ...) by its own factor in ``by`` (B,)."""
    return x * by.view(-1, *[1] * (x.ndim - 1))
