"""Prompts in, text features out: tokenizer, Gemma and projection in one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..types import TextFeatures
from .features import FeatureExtractor
from .gemma import Gemma
from .tokenizer import Tokenizer

OnLayer = Callable[[int, int], None]
"""Called after each hidden state with (finished states, all states). It may raise to stop the run."""


class TextEncoder(nn.Module):
    """Turns prompts into the features that the connectors take.

    Raises:
        ValueError: Gemma, tokenizer and projection are not made for each other.
    """

    def __init__(self, gemma: Gemma, tokenizer: Tokenizer, extractor: FeatureExtractor) -> None:
        super().__init__()
        given = (gemma.num_states, gemma.hidden_size)
        wanted = (extractor.num_states, extractor.hidden_size)
        if given != wanted:
            raise ValueError(
                "text encoder and checkpoint do not belong together: "
                f"the encoder gives {given[0]} hidden states of width {given[1]}, "
                f"the checkpoint's projection takes {wanted[0]} of width {wanted[1]}"
            )
        if tokenizer.vocab_size > gemma.vocab_size:
            raise ValueError(
                "tokenizer and text encoder do not belong together: "
                f"the tokenizer knows {tokenizer.vocab_size} tokens, the encoder {gemma.vocab_size}"
            )
        self.gemma = gemma
        self.tokenizer = tokenizer
        self.extractor = extractor

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], *, on_layer: OnLayer | None = None) -> TextFeatures:
        """Features of ``prompts`` in float32, zero on the left padding of the shorter ones."""
        input_ids, mask = self.tokenizer(prompts)
        accumulator = self.extractor.accumulator(mask)

        def consume(index: int, hidden: Tensor) -> None:
            accumulator.add(index, hidden)
            if on_layer is not None:
                on_layer(index + 1, self.gemma.num_states)

        self.gemma(input_ids, mask, consume)
        return accumulator.result()
