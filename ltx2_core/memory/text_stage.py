"""What reading the prompts needs in memory besides weights: Gemma, the sums of its states, the connectors."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import TextConfig
from ..text.connectors import CONTEXT_LENGTH
from ..text.tokenizer import MAX_TOKENS

PROMPTS = 2
"""One and its negative."""


@dataclass(frozen=True, kw_only=True)
class TextSize:
    """Widths: of Gemma's hidden states and feed-forward, of the features and contexts of each modality."""

    hidden: int
    intermediate: int
    video: int
    audio: int
    shared: bool
    """One projection serves both modalities (2.0)."""

    @classmethod
    def of(cls, config: TextConfig, *, hidden: int, intermediate: int) -> TextSize:
        return cls(
            hidden=hidden,
            intermediate=intermediate,
            video=config.video.dim,
            audio=config.audio.dim,
            shared=not config.per_token_norm,
        )

    @property
    def features(self) -> int:
        """Values of a token's features, of both modalities."""
        return self.video if self.shared else self.video + self.audio


def text_bytes(
    size: TextSize, itemsize: int, *, prompts: int = PROMPTS, tokens: int = MAX_TOKENS
) -> tuple[int, int]:
    """Activations of (encoder, connectors) for ``prompts`` of ``tokens`` each, within 10 % of ``Trace``.

    While a layer runs there are the embedding, its input, the residual and what is normed, three
    feed-forward widths and the sums; while a state is added the embedding, the state, it and its normalised
    form in float32, its share of the sums, and in float32 the columns that it is multiplied with.
    """
    count, row = prompts * tokens, 4 * size.hidden
    sums = 4 * size.features
    masks = prompts * tokens * tokens
    layer = count * (itemsize * (4 * size.hidden + 3 * size.intermediate) + sums)
    adding = count * (itemsize * 2 * size.hidden + 2 * row + sums)
    convert = row if itemsize < 4 else 0
    first = adding + count * 4 * size.video + convert * size.video
    second = 0 if size.shared else adding + count * sums + convert * size.audio
    encoder = max(layer, first, second) + masks
    length = max(CONTEXT_LENGTH, tokens)
    # Eight widths of the tokens in attention, and the rotary table that all prompts share; the sound's
    # context is made beside that of the picture.
    wide = 8 * prompts + 1
    connector = max(wide * size.video, wide * size.audio + prompts * size.video) * length * itemsize
    kept = prompts * tokens * (sums + itemsize * (size.video + size.audio))
    return encoder, connector + kept
