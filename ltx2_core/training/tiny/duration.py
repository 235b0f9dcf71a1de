"""Training of the duration head of LTX-2.5: from the text of a prompt to the length of a clip in seconds.

It is trained on captions of the synthetic world, most of which say how long the clip lasts, and reads what
the frozen text connectors make of them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...config import DurationHeadConfig
from ...text import CONTEXT_LENGTH, Gemma, Tokenizer
from ...text.duration import DurationHead
from ..loop import Evaluate, History, LoopOptions, train, warmup_stable_decay
from ..network import FlowNetwork
from ..state import load_averaged
from ..text import TextBatch, batch_text, encode_captions
from ..world import FPS, LENGTHS_S, UNSAID_S, caption, sample_scene, with_length
from ..world.batches import HELD_OUT
from ..world.lengths import NUMBERS
from .duration_start import NamedLengths


@dataclass(frozen=True, kw_only=True)
class DurationPhase:
    """A part of the training of a duration head, until the share ``until`` of the run, 0 to 1, is done.

    Each step draws ``batch`` of ``captions`` captions, whose contexts of ``length`` tokens are computed once.
    """

    until: float
    captions: int
    length: int
    batch: int


@dataclass(frozen=True, kw_only=True)
class DurationRecipe:
    """Settings of the training of a duration head."""

    total_steps: int = 4000
    lr: float = 2e-3
    said: float = 0.85
    """Share of captions that say how long the clip lasts; the others stand for clips of two seconds."""
    phases: tuple[DurationPhase, ...] = (
        DurationPhase(until=0.7, captions=3600, length=128, batch=64),
        # At inference a context has 1024 tokens, nearly all of them registers, which take long to compute.
        DurationPhase(until=1.0, captions=800, length=CONTEXT_LENGTH, batch=16),
    )
    """In order; a later one draws from other captions."""

    def phase(self, share: float) -> int:
        """The number of the phase when a ``share`` of the run, 0 to 1, is done."""
        return next(n for n, phase in enumerate(self.phases) if share < phase.until or phase.until >= 1)


@dataclass(frozen=True)
class TimedContexts:
    """Encoded captions of N clips, in float16, and how long each clip lasts in seconds (N,)."""

    video: Tensor
    audio: Tensor
    seconds: Tensor

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Contexts of both streams in float32, and the seconds, of the captions that ``index`` names."""
        return self.video[index].float(), self.audio[index].float(), self.seconds[index]


@dataclass(frozen=True)
class TextEncoder:
    """A frozen Gemma and its tokenizer."""

    gemma: Gemma
    tokenizer: Tokenizer

    def encode(self, captions: Sequence[str]) -> tuple[TextBatch, Tensor]:
        """Hidden states of B captions, and which tokens (B, T, words) are the words that name a length.

        The words are the numbers, then "half".
        """
        states = batch_text(encode_captions(self.gemma, self.tokenizer, captions).all())
        words = torch.zeros(*states.mask.shape, len(NUMBERS) + 1)
        known = [int(self.tokenizer([f"a {word}"])[0][0, -1]) for word in (*NUMBERS, "half")]
        ids, mask = self.tokenizer(list(captions))
        for row, valid in enumerate(mask.bool()):
            own = ids[row][valid]
            words[row, : len(own)] = (own[:, None] == torch.tensor(known)).float()
        return states, words


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
    contexts: Sequence[TimedContexts],
    state_path: str | Path,
    *,
    recipe: DurationRecipe,
    seed: int = 0,
    options: LoopOptions | None = None,
    evaluate: Evaluate | None = None,
) -> History:
    """Train ``head`` in place on ``contexts``, the encoded captions of each phase of ``recipe``.

    It resumes from the training state ``state_path`` if the file exists; ``options`` of None are the
    defaults. ``evaluate`` measures the head. At the end it has its averaged weights.
    """

    def step(model: nn.Module, generator: torch.Generator, step: int) -> Mapping[str, Tensor]:
        phase = recipe.phase(step / recipe.total_steps)
        known, count = contexts[phase], recipe.phases[phase].batch
        video, audio, seconds = known.batch(torch.randint(len(known.seconds), (count,), generator=generator))
        # A relative error: half a second matters more to a short clip.
        return {"loss": (model(video, audio).log() - seconds.log()).square().mean()}

    history = train(
        step,
        head,
        torch.optim.AdamW(head.parameters(), lr=recipe.lr, betas=(0.9, 0.98), weight_decay=0.0),
        warmup_stable_decay(recipe.total_steps),
        state_path,
        total_steps=recipe.total_steps,
        seed=seed,
        # A single caption that is read wrong, once the others are right, would undo them.
        options=replace(options or LoopOptions(), clip=_CLIP),
        evaluate=evaluate,
    )
    load_averaged(head, state_path)
    return history


def timed_contexts(
    network: FlowNetwork, text: TextEncoder, recipe: DurationRecipe
) -> tuple[list[TimedContexts], NamedLengths]:
    """Encode the captions of each training phase of ``recipe`` into text contexts.

    Their scenes have the seeds from 0 on, none of which is used for evaluation. The second result has all
    tokens of some captions of the first phase, and says which of them name a length.
    """
    found: list[TimedContexts] = []
    examples: NamedLengths | None = None
    first = 0
    for phase in recipe.phases:
        scenes = range(first, first + phase.captions)
        encoded, tokens = _encoded(network, text, scenes, phase.length, recipe.said)
        found.append(encoded)
        examples = examples or tokens
        first += phase.captions
    assert examples is not None
    return found, examples


@torch.no_grad()
def _encoded(
    network: FlowNetwork, text: TextEncoder, scenes: range, length: int, said: float
) -> tuple[TimedContexts, NamedLengths]:
    """Encode the captions of ``scenes``, seeds of scenes, into text contexts of ``length`` tokens.

    A share ``said`` of the captions, 0 to 1, names the length of the clip. The second result has all tokens
    of the first captions, and says which of them name a length.
    """
    videos, audios, lengths = [], [], []
    examples: list[NamedLengths] = []
    for start in range(scenes.start, scenes.stop, _AT_ONCE):
        texts, seconds = timed_captions(range(start, min(start + _AT_ONCE, scenes.stop)), said)
        states, words = text.encode(texts)
        context = network.context(states, length)
        videos.append(context.video.half())
        audios.append(context.audio.half())
        lengths += seconds
        if start < scenes.start + _EXAMPLES:
            words = F.pad(words, (0, 0, 0, context.video.shape[1] - words.shape[1]))
            examples.append(NamedLengths(*(x.flatten(0, 1) for x in (context.video, context.audio, words))))
    joined = (torch.cat([getattr(e, name) for e in examples]) for name in ("video", "audio", "words"))
    contexts = TimedContexts(torch.cat(videos), torch.cat(audios), torch.tensor(lengths))
    return contexts, NamedLengths(*joined)


_CLIP = 0.3
"""Largest norm of the gradient."""
_AT_ONCE = 40
"""Captions that are encoded at a time."""
_EXAMPLES = 320
"""Captions on whose tokens the first layers are fitted."""


def timed_captions(seeds: Sequence[int], said: float = 1.0) -> tuple[list[str], list[float]]:
    """Captions of the scenes of ``seeds``, and for each the length in seconds that a head should predict.

    A share ``said`` of the captions, 0 to 1, names the length; the others have the same fixed one.
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
    head: DurationHead, network: FlowNetwork, text: TextEncoder, *, captions: int = 48, fps: float = FPS
) -> float:
    """Median error in frames of the length that ``head`` predicts from captions that all say the length.

    Training never uses these ``captions`` captions. Text contexts are as long as at inference.
    """
    errors: list[int] = []
    for start in range(HELD_OUT, HELD_OUT + captions, _AT_ONCE // 4):
        texts, seconds = timed_captions(range(start, min(start + _AT_ONCE // 4, HELD_OUT + captions)))
        context = network.context(text.encode(texts)[0], CONTEXT_LENGTH)
        predicted = head(context.video, context.audio).tolist()
        pairs = zip(predicted, seconds, strict=True)
        errors += [abs(round(found * fps) - round(said * fps)) for found, said in pairs]
    return float(median(errors))
