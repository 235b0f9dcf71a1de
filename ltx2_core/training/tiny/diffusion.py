"""Flow-matching training on stored latents: of the model, its distilled LoRA, and an IC-LoRA for edges.

Each run resumes from its state file; see :func:`ltx2_core.training.loop.train`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from ...text import CONTEXT_LENGTH
from ..flow import FlowBatch, draw_flow, flow_loss
from ..latents import LatentCache
from ..loop import Elapsed, History, LoopOptions, StepFn, averaged_weights, train, warmup_stable_decay
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
    "keyframes_abs",
)
"""Parts of the names of matrices outside the hidden layers, which AdamW trains better than Muon."""


@dataclass(frozen=True, kw_only=True)
class ContextChoice:
    """One length of the text context in tokens, and how often training steps use it.

    Longer contexts cost more, so ``batch`` is a factor on the batch size of these steps.
    """

    length: int
    share: float = 1.0
    """How often it is drawn, relative to the other choices."""
    batch: float = 1.0
    """Factor on the batch size of its steps."""


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
    """Settings of a training run: steps, learning rates, tasks and lengths of the text context.

    ``lr`` is the learning rate of matrices (Muon), ``adam_lr`` that of other parameters, ``batch`` clips per
    step.
    """

    total_steps: int = 12000
    seconds: float = math.inf
    """Training ends after so many seconds if not before; the schedules then follow the clock."""
    batch: int = 32
    lr: float = 0.02
    adam_lr: float = 2e-3
    weight_decay: float = 0.01
    options: FlowOptions = field(default_factory=FlowOptions)
    contexts: tuple[tuple[float, tuple[ContextChoice, ...]], ...] = ((0.7, SHORT), (1.0, ADAPTING))
    """(share of the run until which they apply, choices), in order.

    At inference a context has 1024 tokens, nearly all of them registers, and costs more than the clip.
    Training starts with short ones and adapts to the full length towards the end.
    """

    def context(self, share: float, generator: torch.Generator) -> ContextChoice:
        """Draw the length of the text context for a step.

        ``share``, in [0, 1], is how much of the run is done: ``contexts`` lists the lengths to draw from,
        which become longer towards the end.
        """
        # The last entry also holds at a share of exactly 1, which a run that ends by the clock reaches.
        choices = next(c for until, c in self.contexts if share < until or until >= 1)
        shares = torch.tensor([choice.share for choice in choices])
        return choices[int(torch.multinomial(shares, 1, generator=generator))]

    def batch_for(self, context: ContextChoice) -> int:
        """Number of clips in a training step whose prompts are padded to the length of ``context``.

        Each choice of a length has its share of the full batch, since long prompts take more memory.
        """
        # A share of a small batch may round to no sample at all.
        return max(1, round(self.batch * context.batch))


@dataclass(frozen=True, kw_only=True)
class LoraRecipe:
    """Rank and target layers of a LoRA on the frozen model; ``flow`` has the settings of its training.

    ``targets`` is a regular expression for the names of the layers.
    """

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
    """Train transformer, text connectors and text projection of ``network`` together, in place.

    ``cache`` holds the clips. ``unconditional`` holds the hidden states of prompts that stand for "no
    prompt". The run resumes from the training state ``state_path`` if the file exists; ``options`` of None
    are the defaults. ``network`` ends with its current weights. The averaged weights, which are the ones to
    use, are in ``state_path``: :func:`load_averaged`.
    """
    elapsed = Elapsed(recipe.total_steps, recipe.seconds)
    step = _flow_step(network, cache, unconditional, recipe, elapsed, reference=False)
    return _train(step, network, recipe, elapsed, state_path, seed, options)


StepOf = Callable[[FlowNetwork, LoraAdapters, LatentCache, TextBatch, FlowRecipe, Elapsed], StepFn]
"""Makes the training step of a LoRA; the text is that of prompts which stand for no caption."""


def train_lora(
    step_of: StepOf,
    network: FlowNetwork,
    adapters: LoraAdapters,
    cache: LatentCache,
    text: TextBatch,
    state_path: str | Path,
    *,
    recipe: FlowRecipe,
    seed: int = 0,
    options: LoopOptions | None = None,
) -> History:
    """Train ``adapters``, a LoRA, on the frozen transformer of ``network``, in place.

    ``step_of`` builds the step function: :func:`distilled_step` or :func:`edges_step`. ``cache`` holds the
    clips, ``text`` the hidden states of prompts that stand for "no prompt". The run resumes from the training
    state ``state_path`` if the file exists; ``options`` of None are the defaults.
    """
    network.requires_grad_(False)
    # The clock starts here, so that loading does not count as training.
    elapsed = Elapsed(recipe.total_steps, recipe.seconds)
    step = step_of(network, adapters, cache, text, recipe, elapsed)
    return _train(step, adapters, recipe, elapsed, state_path, seed, options)


def distilled_step(
    network: FlowNetwork,
    adapters: LoraAdapters,
    cache: LatentCache,
    negative: TextBatch,
    recipe: FlowRecipe,
    elapsed: Elapsed,
) -> StepFn:
    """Build the step function that trains a LoRA, ``adapters``, to sample in few steps and without guidance.

    ``cache`` holds the clips, ``negative`` the hidden states of the negative prompts, from which guidance
    steers the teacher away. ``recipe`` has the batch size, how often clips have which conditioning, and the
    lengths of the text. ``elapsed`` measures how much of the run is done.
    """
    settings = DistillOptions()

    def draw(generator: torch.Generator, step: int) -> DistillBatch:
        context = recipe.context(elapsed.share(step), generator)
        sample = cache.batch(recipe.batch_for(context), generator)
        return draw_distill(
            sample, settings, recipe.options, negative, generator, context_length=context.length
        )

    return RecordedStep(draw, lambda batch: distill_loss(network, adapters, batch, settings))


def edges_step(
    network: FlowNetwork,
    _adapters: LoraAdapters,
    cache: LatentCache,
    unconditional: TextBatch,
    recipe: FlowRecipe,
    elapsed: Elapsed,
) -> StepFn:
    """Build the step function that trains a LoRA to follow a control video of edges.

    ``network`` is the transformer with that LoRA in its layers, ``cache`` holds the clips, ``unconditional``
    the hidden states of prompts that stand for "no prompt", and ``recipe`` the settings of the training:
    batch size, tasks and lengths of the text. ``elapsed`` measures how much of the run is done.
    ``_adapters`` is not read; it is there so that both step functions are called alike.
    """
    return _flow_step(network, cache, unconditional, recipe, elapsed, reference=True)


def _flow_step(
    network: FlowNetwork,
    cache: LatentCache,
    unconditional: TextBatch,
    recipe: FlowRecipe,
    elapsed: Elapsed,
    *,
    reference: bool,
) -> RecordedStep[FlowBatch]:
    def draw(generator: torch.Generator, step: int) -> FlowBatch:
        context = recipe.context(elapsed.share(step), generator)
        sample = cache.batch(recipe.batch_for(context), generator, reference=reference)
        return draw_flow(sample, recipe.options, unconditional, generator, context_length=context.length)

    return RecordedStep(draw, lambda batch: flow_loss(network, batch, recipe.options))


def load_averaged(model: nn.Module, state_path: str | Path) -> None:
    """Load the averaged weights of the training state ``state_path`` into ``model``.

    Raises RuntimeError if names or shapes differ.
    """
    model.load_state_dict(averaged_weights(state_path), strict=True)


def _train(
    step_fn: StepFn,
    model: nn.Module,
    recipe: FlowRecipe,
    elapsed: Elapsed,
    state_path: str | Path,
    seed: int,
    options: LoopOptions | None,
) -> History:
    options = options or LoopOptions()
    options = replace(options, max_seconds=min(options.max_seconds, recipe.seconds))
    # Frozen parameters have no gradients, and an optimiser would only spend states on them.
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer: torch.optim.Optimizer
    if isinstance(model, LoraAdapters):
        # A single large gradient stays in the averages of Adam for some fifty steps, at these betas.
        options = replace(options, clip=1.0 if options.clip is None else options.clip)
        # Muon does not suit LoRA: the change is the product of a pair, which has only as many directions as
        # the rank.
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
        warmup_stable_decay(elapsed),
        state_path,
        total_steps=recipe.total_steps,
        seed=seed,
        options=options,
    )
