"""Memory for encoding the prompts, without weights: Gemma, projection of its hidden states, connectors."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import TextConfig
from ..text.connectors import CONTEXT_LENGTH
from ..text.tokenizer import MAX_TOKENS

PROMPTS = 2
"""A positive and a negative prompt."""


@dataclass(frozen=True, kw_only=True)
class TextSize:
    """Widths of tensors that decide the memory of text encoding, in values per token.

    ``hidden`` and ``intermediate`` are those of Gemma's hidden states and feed-forward, ``video`` and
    ``audio`` those of the features of each modality.
    """

    hidden: int
    intermediate: int
    video: int
    audio: int
    shared: bool
    """Whether one projection serves both modalities (2.0)."""

    @classmethod
    def of(cls, config: TextConfig, *, hidden: int, intermediate: int) -> TextSize:
        """The widths of a text encoder and of the connectors that follow it.

        ``hidden`` and ``intermediate`` are those of the encoder's hidden states and feed-forward; ``config``
        is the configuration of the connectors.
        """
        return cls(
            hidden=hidden,
            intermediate=intermediate,
            video=config.video.dim,
            audio=config.audio.dim,
            shared=not config.per_token_norm,
        )

    @classmethod
    def of_t5(cls, *, hidden: int, intermediate: int) -> TextSize:
        """The widths of a T5, whose states the transformer of LTX-Video reads without connectors."""
        return cls(hidden=hidden, intermediate=intermediate, video=0, audio=0, shared=True)

    @property
    def features(self) -> int:
        """Number of feature values per token, of both modalities together."""
        return self.video if self.shared else self.video + self.audio


def text_bytes(
    size: TextSize, itemsize: int, *, prompts: int = PROMPTS, tokens: int = MAX_TOKENS
) -> tuple[int, int]:
    """Bytes of activations of (encoder, connectors) for ``prompts`` prompts of ``tokens`` tokens each.

    Within 10 % of what the memory tracer ``Trace`` counts. ``itemsize`` is the bytes of one activation.
    The encoder is counted while a layer of Gemma runs: four hidden widths (embedding, input, residual,
    normalised input), three feed-forward widths and the features summed so far. It is also counted while a
    hidden state is projected: the embedding and the state, the state in float32 and normalised, the features
    summed so far and those to add, and the projection's columns for this state in float32. The larger counts.
    The connectors are counted with eight widths and a rotary table per token, and the text features.
    """
    count, row = prompts * tokens, 4 * size.hidden
    sums = 4 * size.features
    # One byte for each pair of tokens, since masks of attention are boolean.
    masks = prompts * tokens * tokens
    layer = count * (itemsize * (4 * size.hidden + 3 * size.intermediate) + sums)
    adding = count * (itemsize * 2 * size.hidden + 2 * row + sums)
    # In float32 the columns of the projection are used as they are.
    convert = row if itemsize < 4 else 0
    first = adding + count * 4 * size.video + convert * size.video
    second = 0 if size.shared else adding + count * sums + convert * size.audio
    encoder = max(layer, first, second) + masks
    length = max(CONTEXT_LENGTH, tokens)
    # Attention takes eight widths per token, and all prompts share a rotary table. The audio connector runs
    # second, while the video context already exists.
    wide = 8 * prompts + 1
    connector = max(wide * size.video, wide * size.audio + prompts * size.video) * length * itemsize
    features = prompts * tokens * (sums + itemsize * (size.video + size.audio))
    return encoder, connector + features
