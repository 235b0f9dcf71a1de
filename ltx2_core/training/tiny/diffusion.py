"""Runs of flow matching on cached latents: the model itself, its distilled LoRA, a LoRA for edges.

All three keep their state in one file and continue from it; see :func:`ltx2_core.training.loop.train`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from ...text import CONTEXT_LENGTH
from ..flow import FlowBatch, draw_flow, flow_loss
from ..latents import LatentCache
from ..loop import Course, History, LoopOptions, StepFn, averaged_weights, train, warmup_stable_decay
from ..lora import ATTENTION_AND_FEED_FORWARD, LoraAdapters
from ..network import FlowNetwork
from ..optimisers import Muon
from ..recorded import RecordedStep
from ..tasks import FlowOptions
from ..text import TextBatch
from .distill import DistillBatch, DistillOptions, distill_loss, draw_distill

FIRST_AND_LAST = (
    "patchify_proj",
    "proj_out",
    "table",
    "registers",
    "adaln_single",
    "to_gate_logits",
    "aggregate_embed",
)
"""Parts of the names of matrices that are no hidden layers, which AdamW serves better than Muon."""


@dataclass(frozen=True, kw_only=True)
class ContextChoice:
    """A context length, how often it is used, and which part of the batch size goes with it."""

    length: int
    share: float = 1.0
    batch: float = 1.0


SHORT = (ContextChoice(length=32),)
ADAPTING = (
    ContextChoice(length=32, share=0.6),
    ContextChoice(length=128, share=0.25, batch=0.5),
    ContextChoice(length=CONTEXT_LENGTH, share=0.15, batch=0.125),
)
LONG = (
    ContextChoice(length=128, share=0.7),
    ContextChoice(length=CONTEXT_LENGTH, share=0.3, batch=0.25),
)


@dataclass(frozen=True, kw_only=True)
class FlowRecipe:
    """Length and step of a run. ``contexts`` are (until which share of the steps, choices).

    At inference a context has 1024 tokens, nearly all of them registers, and costs more than the clip; so the
    model is made with few of them and gets used to all of them towards the end.
    """

    total_steps: int = 12000
    seconds: float = math.inf
    """Steps end here if not before, with all that comes towards the end."""
    batch: int = 32
    lr: float = 0.02
    adam_lr: float = 2e-3
    weight_decay: float = 0.01
    options: FlowOptions = field(default_factory=FlowOptions)
    contexts: tuple[tuple[float, tuple[ContextChoice, ...]], ...] = ((0.7, SHORT), (1.0, ADAPTING))

    def context(self, share: float, generator: torch.Generator) -> ContextChoice:
        """The context of one step, where ``share`` of the run is behind."""
        choices = next(c for until, c in self.contexts if share < until or until >= 1)
        shares = torch.tensor([choice.share for choice in choices])
        return choices[int(torch.multinomial(shares, 1, generator=generator))]

    def batch_for(self, context: ContextChoice) -> int:
        """Clips of a step with that context."""
        return max(1, round(self.batch * context.batch))


@dataclass(frozen=True, kw_only=True)
class LoraRecipe:
    """A LoRA on a frozen model; ``flow`` says how its steps are made."""

    rank: int = 16
    targets: str = ATTENTION_AND_FEED_FORWARD
    flow: FlowRecipe = field(default_factory=lambda: FlowRecipe(total_steps=2000, contexts=((1.0, LONG),)))


def train_flow(
    network: FlowNetwork,
    cache: LatentCache,
    unconditional: TextBatch,
    state_path: str | Path,
    *,
    recipe: FlowRecipe,
    seed: int = 0,
    options: LoopOptions | None = None,
) -> History:
    """Train transformer, connectors and projection together; ``unconditional`` stand for no caption.

    The averaged weights are those to ship: :func:`load_averaged`.
    """
    course = Course(recipe.total_steps, recipe.seconds)
    step = _flow_step(network, cache, unconditional, recipe, course, edges=False)
    return _train(step, network, recipe, course, state_path, seed, options)


def train_distilled(
    network: FlowNetwork,
    adapters: LoraAdapters,
    cache: LatentCache,
    negative: TextBatch,
    state_path: str | Path,
    *,
    recipe: FlowRecipe,
    distill: DistillOptions | None = None,
    seed: int = 0,
    options: LoopOptions | None = None,
) -> History:
    """Train ``adapters``, on the network's transformer, to need neither many steps nor guidance."""
    settings, course = distill or DistillOptions(), Course(recipe.total_steps, recipe.seconds)

    def draw(generator: torch.Generator, step: int) -> DistillBatch:
        context = recipe.context(course.share(step), generator)
        sample = cache.batch(recipe.batch_for(context), generator)
        return draw_distill(
            sample, settings, recipe.options, negative, generator, context_length=context.length
        )

    step = RecordedStep(draw, lambda batch: distill_loss(network, adapters, batch, settings))
    network.requires_grad_(False)
    return _train(step, adapters, recipe, course, state_path, seed, options)


def train_edges(
    network: FlowNetwork,
    adapters: LoraAdapters,
    cache: LatentCache,
    unconditional: TextBatch,
    state_path: str | Path,
    *,
    recipe: FlowRecipe,
    seed: int = 0,
    options: LoopOptions | None = None,
) -> History:
    """Train ``adapters`` to follow the edges that are shown beside the video as a reference."""

    network.requires_grad_(False)
    course = Course(recipe.total_steps, recipe.seconds)
    step = _flow_step(network, cache, unconditional, recipe, course, edges=True)
    return _train(step, adapters, recipe, course, state_path, seed, options)


def _flow_step(
    network: FlowNetwork,
    cache: LatentCache,
    unconditional: TextBatch,
    recipe: FlowRecipe,
    course: Course,
    *,
    edges: bool,
) -> RecordedStep[FlowBatch]:
    def draw(generator: torch.Generator, step: int) -> FlowBatch:
        context = recipe.context(course.share(step), generator)
        sample = cache.batch(recipe.batch_for(context), generator, edges=edges)
        return draw_flow(sample, recipe.options, unconditional, generator, context_length=context.length)

    return RecordedStep(draw, lambda batch: flow_loss(network, batch, recipe.options))


def load_averaged(model: nn.Module, state_path: str | Path) -> None:
    """Give ``model`` the averaged weights of a run."""
    model.load_state_dict(averaged_weights(state_path), strict=True)


def _train(
    step_fn: StepFn,
    model: nn.Module,
    recipe: FlowRecipe,
    course: Course,
    state_path: str | Path,
    seed: int,
    options: LoopOptions | None,
) -> History:
    options = options or LoopOptions()
    options = replace(options, max_seconds=min(options.max_seconds, recipe.seconds))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer: torch.optim.Optimizer
    if isinstance(model, LoraAdapters):
        options = replace(options, clip=1.0 if options.clip is None else options.clip)
        # The product of a pair is what counts, and it has no more directions than the rank.
        optimizer = torch.optim.AdamW(trained, lr=recipe.adam_lr, betas=(0.9, 0.98), weight_decay=0.0)
    else:
        optimizer = Muon(
            trained,
            lr=recipe.lr,
            adam_lr=recipe.adam_lr,
            weight_decay=recipe.weight_decay,
            plain=[p for name, p in model.named_parameters() if any(part in name for part in FIRST_AND_LAST)],
        )
    return train(
        step_fn,
        model,
        optimizer,
        warmup_stable_decay(course),
        state_path,
        total_steps=recipe.total_steps,
        seed=seed,
        options=options,
    )
