"""Predicts the peak memory of a LoRA run, and chooses settings with which it fits a budget.

For bfloat16 activations, blocks that are computed again in the backward pass, attention that does not store
its matrix, and clips that were encoded before. Every width is that of the checkpoint. The bytes of a token
are those of a traced step at released widths (``benchmarks/training_memory.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol

from torch import nn

from ..config import TransformerConfig
from ..memory import size_text
from ..shapes import ClipPlan
from ..transformer import Transformer
from .memory_text import TextMemory
from .targets import layer_pattern

_OPTIMIZER_BYTES = {"adamw": 16, "adamw8bit": 10, "adafactor": 12, "muon": 12, "prodigy": 24}
"""Bytes for each parameter of a LoRA: weight, gradient and what the optimizer holds.

Both averages; of adafactor those of rows and columns at rank 1, where they are largest; of muon its momentum;
of prodigy also the first weights and a sum of gradients.
"""

_PER_TOKEN = {"video": 137, "audio": 120}
"""Bytes for each token and unit of the width beyond what is held of the blocks.

Modulation parameters and rotary tables outside of them, activations and gradients of the block whose backward
pass runs.
"""

_TEXT = 72_000_000
"""Bytes of a text of 1024 tokens inside a block."""

_CONTEXT, _FRAGMENTS = 700_000_000, 1.1


class TransformerSize(Protocol):
    """The configuration of a transformer, and the bytes of its weights and of one of its blocks."""

    @property
    def transformer(self) -> TransformerConfig: ...

    @property
    def transformer_weights(self) -> int: ...

    @property
    def block_weights(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class TrainingChoice:
    """Settings of a LoRA run that decide its memory.

    ``blocks_to_swap`` is the number of blocks whose weights lie in system memory.
    """

    rank: int = 32
    optimizer: str = "adamw"
    blocks_to_swap: int = 0
    offload: bool = False
    """Whether what is held of the activations waits in system memory."""

    def lines(self) -> list[str]:
        """The settings as lines of a configuration file."""
        return [
            f"rank = {self.rank}",
            f'optimizer = "{self.optimizer}"',
            f"blocks_to_swap = {self.blocks_to_swap}",
            f"activation_offload = {str(self.offload).lower()}",
        ]


@dataclass(frozen=True, kw_only=True)
class TrainingMemory:
    """Bytes at the peak of a run on the device, and in system memory."""

    weights: int
    adapters: int
    activations: int
    host: int

    @property
    def peak(self) -> int:
        """With what a GPU needs for itself, and what is lost between pieces of memory."""
        return int((self.weights + self.adapters + self.activations) * _FRAGMENTS) + _CONTEXT

    def __str__(self) -> str:
        return (
            f"peak {size_text(self.peak)}: weights {size_text(self.weights)}, LoRA and optimizer "
            f"{size_text(self.adapters)}, activations {size_text(self.activations)}; system memory "
            f"{size_text(self.host)}"
        )


def training_memory(
    size: TransformerSize,
    clip: ClipPlan,
    choice: TrainingChoice,
    *,
    quantised: bool,
    text: TextMemory | None = None,
) -> TrainingMemory:
    """Predict the memory of a run with batches of one clip with audio.

    ``quantised`` says that blocks are stored in eight bits and decoded while they run. ``text`` is what text
    networks add that are trained too. References are tokens of the video too: plan for a longer clip.
    """
    text = TextMemory() if text is None else text
    config, swapped = size.transformer, choice.blocks_to_swap
    widths = {"video": (clip.video_tokens, config.dim), "audio": (clip.audio_tokens, config.audio_dim)}
    held = sum(2 * tokens * width for tokens, width in widths.values())
    block = sum(tokens * width * _PER_TOKEN[name] for name, (tokens, width) in widths.items())
    # The decoded weights of the block that runs are held for the gradient of its input.
    decoded = 2 * _block_parameters(config) if quantised else 0
    # One swapped block is on the device while it runs.
    streamed = size.block_weights if swapped else 0
    weights = size.transformer_weights - swapped * size.block_weights + streamed + decoded
    parameters = (lora_parameters(config) + text.parameters) * choice.rank
    return TrainingMemory(
        weights=weights + text.weights,
        adapters=parameters * _OPTIMIZER_BYTES[choice.optimizer],
        # With offload the inputs of the block that runs are on the device alone.
        activations=held * (1 if choice.offload else config.num_layers) + block + _TEXT + text.activations,
        host=swapped * size.block_weights + (held * config.num_layers if choice.offload else 0),
    )


def choose_training(
    budget: int,
    size: TransformerSize,
    clip: ClipPlan,
    *,
    quantised: bool,
    text: TextMemory | None = None,
    fixed: Mapping[str, Any] | None = None,
) -> tuple[TrainingChoice, TrainingMemory, bool]:
    """The fastest settings that fit ``budget`` bytes, their memory, and whether they do fit.

    If nothing fits, these are the most frugal ones. ``fixed`` has the fields of :class:`TrainingChoice` that
    are not to be chosen. Raises ValueError if more blocks are to be swapped than there are.
    """
    fixed, layers = fixed or {}, size.transformer.num_layers
    if fixed.get("blocks_to_swap", 0) > layers:
        raise ValueError(f"blocks_to_swap={fixed['blocks_to_swap']}: the transformer has {layers} blocks")
    choice, memory = TrainingChoice(), None
    # Candidates that differ in fixed values alone are one.
    for choice in dict.fromkeys(replace(one, **fixed) for one in _candidates(layers)):
        memory = training_memory(size, clip, choice, quantised=quantised, text=text)
        if memory.peak <= budget:
            return choice, memory, True
    assert memory is not None
    return choice, memory, False


def _candidates(layers: int) -> Iterator[TrainingChoice]:
    """Settings in the order in which they are tried: a rank is given up before most blocks are swapped."""
    full = TrainingChoice()
    yield full
    eight = replace(full, optimizer="adamw8bit")
    # Copying half of the blocks still hides behind the computation of the others.
    yield from (replace(eight, blocks_to_swap=n) for n in range(layers // 2 + 1))
    low = replace(eight, rank=16)
    yield from (replace(low, blocks_to_swap=n) for n in range(layers // 2 + 1))
    for rank in (16, 8):
        yield from (replace(low, rank=rank, offload=True, blocks_to_swap=n) for n in range(layers - 1))


@lru_cache(maxsize=8)
def lora_parameters(config: TransformerConfig) -> int:
    """Parameters of a LoRA of rank 1 on all attention layers."""
    pattern = re.compile(layer_pattern(("attention",)))
    network = Transformer(replace(config, num_layers=1), device="meta")
    found = sum(
        module.in_features + module.out_features
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and pattern.search(name)
    )
    return found * config.num_layers


@lru_cache(maxsize=8)
def _block_parameters(config: TransformerConfig) -> int:
    network = Transformer(replace(config, num_layers=1), device="meta")
    return sum(parameter.numel() for parameter in network.transformer_blocks.parameters())
