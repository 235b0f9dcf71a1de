"""A LoRA that does in one step what the guided model does in several (Salimans and Ho, 2022, "Progressive
distillation", with the teacher's guidance folded in as in Meng et al., 2023).

For an interval of the short schedule, a clip is noised to its upper end, the teacher, guided, walks to its
lower end in small steps, and the student learns the one velocity that gets there at once.
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
from ..data import sent
from ..flow import FlowBatch, masked_error, noised, predict
from ..latents import Sample
from ..lora import LoraAdapters
from ..network import FlowNetwork
from ..recorded import Drawn
from ..tasks import FlowOptions, Task, draw_task
from ..text import TextBatch


@dataclass(frozen=True, kw_only=True)
class DistillOptions:
    """``substeps`` of the teacher for each step of the student, ``cfg`` of the teacher for both streams.

    The three steps of a second stage are the last three of the eight, so one LoRA serves both.
    """

    sigmas: tuple[float, ...] = tuple(DISTILLED_SIGMAS.tolist())
    substeps: int = 4
    cfg: float = 3.0
    early: float = 0.3
    """Share of samples in the first, nearly equal steps; the rest is spread evenly over the large ones."""
    mixed: float = 0.3
    """Share of samples at noise levels above 0.9 that start from another clip: a second stage starts from
    what the first one made, which may have missed the prompt."""


@dataclass(frozen=True, kw_only=True)
class DistillBatch(Drawn):
    """A task for every clip, the interval that the student has to cross, and a prompt to be guided away from.

    ``upper`` and ``lower`` are noise levels (B,).
    """

    flow: FlowBatch
    away: TextBatch
    upper: Tensor
    lower: Tensor

    @property
    def layout(self) -> object:
        return self.flow.layout

    def map(self, change: Callable[[Tensor], Tensor]) -> DistillBatch:
        return DistillBatch(
            flow=self.flow.map(change),
            away=self.away.map(change),
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
    """One batch; of ``negative``, the prompts that the teacher is guided away from, one is drawn."""
    task = draw_task(sample, tasks, generator)
    upper, lower = (sent(s, task.sigma.device) for s in _interval(len(task.sigma), options, generator))
    which = int(torch.randint(len(negative.mask), (1,), generator=generator))
    chosen = sent(torch.rand(len(upper), generator=generator) < options.mixed, upper.device) & (upper > 0.9)
    return DistillBatch(
        flow=FlowBatch(
            latent=sample.latent.map(partial(_of_the_next, chosen)),
            task=task,
            text=sample.text,
            context_length=context_length,
            fps=sample.fps,
        ),
        away=negative.map(partial(_repeated, which, len(upper))),
        upper=upper,
        lower=lower,
    )


def distill_loss(
    network: FlowNetwork, adapters: LoraAdapters, batch: DistillBatch, options: DistillOptions
) -> dict[str, Tensor]:
    """``loss`` and its parts for one batch. ``adapters`` are those of the network's transformer."""
    flow, upper, lower = batch.flow, batch.upper, batch.lower
    with torch.no_grad():
        positive = network.context(flow.text, flow.context_length)
        away = network.context(batch.away, flow.context_length)
        start = noised(flow.latent, flow.task, upper)
        with adapters.disabled():
            end = _walk(network, start, flow.task, upper, lower, (positive, away), flow.fps, options)
        gap = (upper - lower).clamp(min=1e-6)
        wanted = (start - end).map(partial(_scaled, by=1 / gap))
    velocity = predict(network, start, flow.task, upper, positive, flow.fps)
    errors = masked_error(velocity, wanted, flow.task)
    return {"loss": errors["video"] + errors["audio"], **errors}


def _interval(count: int, options: DistillOptions, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Upper and lower noise level (count,) of one step of the student for each sample."""
    sigmas = torch.tensor(options.sigmas)
    large = sigmas[:-1] - sigmas[1:] > _SMALL
    weights = torch.where(large, 1 / large.sum().clamp(min=1), 0.0)
    if bool((~large).any()):
        weights = (1 - options.early) * weights + options.early * torch.where(large, 0.0, 1 / (~large).sum())
    step = torch.multinomial(weights, count, replacement=True, generator=generator)
    return sigmas[step], sigmas[step + 1]


_SMALL = 0.02


def _walk(
    network: FlowNetwork,
    x: AVLatent,
    task: Task,
    upper: Tensor,
    lower: Tensor,
    contexts: tuple[TextContext, TextContext],
    fps: float,
    options: DistillOptions,
) -> AVLatent:
    """Guided Euler steps of every sample from its upper to its lower noise level."""
    assert x.video is not None and x.audio is not None
    grid, bins = x.video.shape[2:], x.audio.shape[3]
    for step in range(options.substeps):
        sigma = upper + (lower - upper) * (step / options.substeps)
        change = (lower - upper) / options.substeps
        toward, away = (predict(network, x, task, sigma, context, fps) for context in contexts)
        tokens = away + (toward - away) * options.cfg
        assert tokens.video is not None and tokens.audio is not None
        velocity = AVLatent(unpatchify_video(tokens.video, *grid), unpatchify_audio(tokens.audio, bins))
        x = blend(task.given, x + velocity.map(partial(_scaled, by=change)), task.mask)
    return x


def _of_the_next(chosen: Tensor, x: Tensor) -> Tensor:
    """x (B, ...), where ``chosen`` (B,) that of the next clip of the batch."""
    return torch.where(chosen.view(-1, *[1] * (x.ndim - 1)), x.roll(-1, 0), x)


def _repeated(row: int, count: int, tensor: Tensor) -> Tensor:
    """One row of a tensor, ``count`` times."""
    return tensor[row : row + 1].expand(count, *tensor.shape[1:])


def _scaled(x: Tensor, by: Tensor) -> Tensor:
    """x (B, ...) times one number a sample."""
    return x * by.view(-1, *[1] * (x.ndim - 1))
