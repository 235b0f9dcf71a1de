"""Predicts the memory of text networks that a LoRA run trains: connectors, and before them the projection."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from ..config import TextConfig
from ..text.connectors import TextConnectors

TrainedText = Literal["none", "connectors", "projection"]
"""The networks of the text that take part in a step; the projection needs the connectors too."""

TOKENS = 1024
"""Tokens of the context, and of the longest caption that is planned for."""
STATES = 49 * 3840
"""Values of all hidden states of a token of Gemma 12B."""

_PER_LAYER, _ONCE = 32.3, 15.4
"""Bytes for each token and unit of the width of a connector, by layer and once, of a traced step."""

_PER_STATE = {True: 2, False: 12}
"""Bytes for each value of the hidden states: with a norm per token (from 2.3 on), or one per prompt."""


@dataclass(frozen=True, kw_only=True)
class TextMemory:
    """Bytes that the networks of the text add to a step, and parameters of a LoRA of rank 1 on them."""

    weights: int = 0
    activations: int = 0
    parameters: int = 0


@lru_cache(maxsize=16)
def text_memory(config: TextConfig, trained: TrainedText, *, states: int = STATES) -> TextMemory:
    """Predict what text networks in bfloat16 add to a step with a LoRA on them.

    ``states`` are the values of all hidden states of a token. What is added to the LoRA is what the targets
    ``connectors`` or ``projection`` have.
    """
    if trained == "none":
        return TextMemory()
    connectors = (config.video, config.audio)
    weights = 2 * sum(p.numel() for p in TextConnectors(config, device="meta").parameters())
    held = sum(TOKENS * one.dim * (_PER_LAYER * one.num_layers + _ONCE) for one in connectors)
    if trained == "connectors":
        # Four layers of attention, as wide as they are long.
        parameters = sum(one.num_layers * 4 * 2 * one.dim for one in connectors)
        return TextMemory(weights=weights, activations=int(held), parameters=parameters)
    # The one projection of 2.0 serves both streams.
    outputs = [one.dim for one in (connectors if config.per_token_norm else connectors[:1])]
    values = TOKENS * states * _PER_STATE[config.per_token_norm]
    return TextMemory(
        weights=weights + 2 * states * sum(outputs),
        activations=int(held + values) if config.per_token_norm else int(max(held, values)),
        parameters=sum(states + width for width in outputs),
    )
