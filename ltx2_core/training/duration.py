"""Training of the duration head of LTX-2.5: from the text of a prompt to the length of a clip in seconds.

It is trained on captions of the synthetic world, most of which say how long the clip lasts, and reads what
the frozen text connectors make of them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from ..config import DurationHeadConfig
from ..text import CONTEXT_LENGTH
from ..text.duration import DurationHead, frames_for
from ..types import TextContext
from .loop import Evaluate, History, LoopOptions, StepFn, train, warmup_stable_decay
from .network import FlowNetwork
from .state import load_averaged
from .text import TextBatch
from .world import FPS, LENGTHS_S, UNSAID_S, caption, sample_scene, with_length
from .world.batches import HELD_OUT, draw_seeds

EncodeText = Callable[[Sequence[str]], TextBatch]
"""Computes the hidden states of captions."""


@dataclass(frozen=True, kw_only=True)
class DurationRecipe:
    """Settings of the training of a duration head; ``batch`` is the number of captions of a step."""

    total_steps: int = 600
    batch: int = 16
    lr: float = 3e-3
    said: float = 0.85
    """Share of captions that say how long the clip lasts; the others stand for clips of two seconds."""
    context_length: int = CONTEXT_LENGTH
    """Length of the text context in tokens, most of them registers; at inference it is the default."""


def new_duration_head(config: DurationHeadConfig, seed: int) -> DurationHead:
    """Build a duration head with initial weights, drawn by ``seed``, that predicts about two seconds."""
    head = DurationHead(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(head.named_parameters()):
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5, generator=generator)
            else:
                nn.init.zeros_(parameter)
            if name == "mlp_out.bias":
                nn.init.constant_(parameter, math.log(UNSAID_S))
    return head


def train_duration_head(
    head: DurationHead,
    network: FlowNetwork,
    encode: EncodeText,
    state_path: str | Path,
    *,
    recipe: DurationRecipe,
    seed: int = 0,
    options: LoopOptions | None = None,
) -> History:
    """Train ``head`` in place on the text contexts of ``network``, which stays as it is.

    ``encode`` computes the hidden states of captions. It resumes from the training state ``state_path`` if
    the file exists; ``options`` of None are the defaults. At the end the head has its averaged weights.
    """
    history = train(
        _step(network, encode, recipe),
        head,
        torch.optim.AdamW(head.parameters(), lr=recipe.lr, weight_decay=0.0),
        warmup_stable_decay(recipe.total_steps),
        state_path,
        total_steps=recipe.total_steps,
        seed=seed,
        options=options,
        evaluate=_evaluation(head, network, encode, recipe),
    )
    load_averaged(head, state_path)
    return history


def _step(network: FlowNetwork, encode: EncodeText, recipe: DurationRecipe) -> StepFn:
    def step(model: nn.Module, generator: torch.Generator, _step: int) -> Mapping[str, Tensor]:
        captions, seconds = timed_captions(draw_seeds(generator, recipe.batch), recipe.said)
        context = _context(network, encode, captions, recipe)
        predicted: Tensor = model(context.video, context.audio)
        # A relative error: half a second matters more to a short clip.
        target = torch.tensor(seconds, device=predicted.device)
        return {"loss": (predicted.log() - target.log()).square().mean()}

    return step


def _evaluation(
    head: DurationHead, network: FlowNetwork, encode: EncodeText, recipe: DurationRecipe
) -> Evaluate:
    def evaluate(_model: nn.Module, _step: int) -> dict[str, float]:
        return {"frames": held_out_frames(head, network, encode, recipe)}

    return evaluate


def timed_captions(seeds: Sequence[int], said: float = 1.0) -> tuple[list[str], list[float]]:
    """Captions of the scenes of ``seeds``, and the lengths of the clips in seconds.

    A share ``said`` of the captions names the length.
    """
    captions, lengths = [], []
    for seed in seeds:
        # The seed of a scene also draws its length, so that a number names an example.
        draw = random.Random(f"duration {seed}")
        names, seconds = draw.random() < said, draw.choice(LENGTHS_S)
        text = caption(sample_scene(seed), seed)
        captions.append(with_length(text, seconds, seed) if names else text)
        lengths.append(seconds if names else UNSAID_S)
    return captions, lengths


@torch.no_grad()
def held_out_frames(
    head: DurationHead,
    network: FlowNetwork,
    encode: EncodeText,
    recipe: DurationRecipe,
    *,
    captions: int = 60,
) -> float:
    """Median error in frames on ``captions`` captions that training never uses, all of which say the length.

    The number of frames is the one that a pipeline makes of the predicted seconds.
    """
    errors: list[int] = []
    for start in range(0, captions, recipe.batch):
        texts, seconds = timed_captions([HELD_OUT + n for n in range(start, start + recipe.batch)])
        context = _context(network, encode, texts, recipe)
        predicted = head(context.video, context.audio).tolist()
        pairs = zip(predicted, seconds, strict=True)
        errors += [abs(frames_for(p, FPS) - frames_for(s, FPS)) for p, s in pairs]
    return float(median(errors))


@torch.no_grad()
def _context(
    network: FlowNetwork, encode: EncodeText, captions: Sequence[str], recipe: DurationRecipe
) -> TextContext:
    return network.context(encode(captions), recipe.context_length)
