"""The text encoder: turns prompts into text features by tokenizer, Gemma and text projection."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..out_of_memory import attempt
from ..types import TextFeatures
from .features import FeatureExtractor, batched
from .gemma import Gemma
from .tokenizer import Tokenizer

OnLayer = Callable[[int, int], None]
"""Called after each hidden state with (finished states, total states). It may raise to stop the run."""


class TextEncoder(nn.Module):
    """Encodes prompts to text features, the input of the text connectors.

    Raises:
        ValueError: sizes of Gemma, tokenizer and projection do not match.
    """

    def __init__(self, gemma: Gemma, tokenizer: Tokenizer, extractor: FeatureExtractor) -> None:
        super().__init__()
        actual = (gemma.num_states, gemma.hidden_size)
        expected = (extractor.num_states, extractor.hidden_size)
        if actual != expected:
            raise ValueError(
                "text encoder and checkpoint do not belong together: "
                f"the encoder has {actual[0]} hidden states of width {actual[1]}, "
                f"the checkpoint's projection takes {expected[0]} of width {expected[1]}"
            )
        # Released embeddings have more rows than tokens, so that only a larger tokenizer is wrong.
        if tokenizer.vocab_size > gemma.vocab_size:
            raise ValueError(
                "tokenizer and text encoder do not belong together: "
                f"the tokenizer has {tokenizer.vocab_size} tokens, the encoder {gemma.vocab_size}"
            )
        self.gemma = gemma
        self.tokenizer = tokenizer
        self.extractor = extractor

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], *, on_layer: OnLayer | None = None) -> TextFeatures:
        """Compute the text features of ``prompts`` in float32, padded with zeros on the left to one length.

        The features of a prompt do not depend on the other prompts of the call, bit for bit. ``on_layer`` is
        called with the number of hidden states that are done and their total, over all prompts.
        """
        states = self.gemma.num_states
        total = states * len(prompts)

        def encode_one(number: int, prompt: str) -> TextFeatures:
            def on_state(done: int) -> None:
                if on_layer is not None:
                    on_layer(number * states + done, total)

            return attempt("encoding the prompt", lambda: self._encode_one(prompt, on_state))

        # A string is a sequence too; the tokenizer refuses it, and an empty list, by name.
        if isinstance(prompts, str) or not prompts:
            self.tokenizer(prompts)
        # One by one, since a batch rounds differently from its rows, and padding changes it again.
        return batched([encode_one(*numbered) for numbered in enumerate(prompts)])

    def _encode_one(self, prompt: str, on_state: Callable[[int], None]) -> TextFeatures:
        """Compute the features (1, T, K) of one prompt, T tokens of width K, without padding.

        ``on_state`` is called with the number of hidden states that are done.
        """
        input_ids, mask = self.tokenizer([prompt])
        accumulator = self.extractor.accumulator(mask)

        def consume(index: int, hidden: Tensor) -> None:
            accumulator.add(index, hidden)
            on_state(index + 1)

        self.gemma(input_ids, mask, consume)
        return accumulator.result()
