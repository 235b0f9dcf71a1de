"""Text for training: the hidden states of a frozen Gemma, computed once per caption and batched with padding.

Projection and connectors are trained and start from these states. Letters: P tokens of all captions together,
L hidden states per token, D hidden width, B captions of a batch, T tokens of the longest caption.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ..text import Gemma, Tokenizer, load_gemma, load_tokenizer


def load_text(folder: Path) -> tuple[Gemma, Tokenizer]:
    """Load Gemma in float32 and its tokenizer from a Hugging Face folder."""
    return load_gemma(folder, dtype=torch.float32), load_tokenizer(folder)


@dataclass(frozen=True)
class TextStates:
    """Hidden states of several captions without padding.

    ``hidden`` (P, L, D) has L hidden states of width D for each token, first all tokens of the first caption,
    then those of the second, and so on: P tokens in all.
    """

    hidden: Tensor
    lengths: tuple[int, ...]
    """Tokens of each caption."""

    def __len__(self) -> int:
        return len(self.lengths)

    def all(self) -> list[Tensor]:
        """The states of each caption, (T, L, D): T tokens of that caption, L hidden states of width D."""
        return list(torch.split(self.hidden, list(self.lengths)))


@dataclass(frozen=True)
class TextBatch:
    """Padded hidden states of B captions: ``hidden`` (B, T, L, D) in float32, ``mask`` (B, T) 1 on tokens.

    T is the number of tokens with padding, L that of hidden states per token, D their width.
    """

    hidden: Tensor
    mask: Tensor

    def states(self) -> Iterable[Tensor]:
        """The L hidden states of all tokens, each (B, T, D), in order, as the text projection takes them.

        T is the number of tokens with padding, D the width of a state.
        """
        return self.hidden.unbind(dim=2)

    def map(self, change: Callable[[Tensor], Tensor]) -> TextBatch:
        """A copy with ``change`` applied to hidden states and mask."""
        return TextBatch(change(self.hidden), change(self.mask))

    def padded(self, length: int) -> TextBatch:
        """A copy that is padded to at least ``length`` tokens."""
        more = max(0, length - self.mask.shape[1])
        return TextBatch(F.pad(self.hidden, (0, 0, 0, 0, 0, more)), F.pad(self.mask, (0, more)))


def batch_text(captions: Sequence[Tensor]) -> TextBatch:
    """Pad the states of captions, each (T, L, D) with its own number of tokens T, into one batch in float32.

    There are L hidden states of width D for each token.
    """
    # The side of the padding does not matter: connectors move the valid tokens to the front by the mask.
    hidden = torch.nn.utils.rnn.pad_sequence([c.float() for c in captions], batch_first=True)
    lengths = torch.tensor([len(caption) for caption in captions])
    return TextBatch(hidden, (torch.arange(hidden.shape[1]) < lengths[:, None]).long())


def encode_captions(
    gemma: Gemma,
    tokenizer: Tokenizer,
    captions: Sequence[str],
    *,
    batch: int = 64,
    dtype: torch.dtype = torch.bfloat16,
) -> TextStates:
    """Compute the hidden states of all captions by ``gemma``, ``batch`` captions at a time.

    They are stored in ``dtype``.
    """
    pieces: list[Tensor] = []
    lengths: list[int] = []
    for start in range(0, len(captions), batch):
        ids, mask = tokenizer(list(captions[start : start + batch]))
        states: list[Tensor] = []
        gemma(ids, mask, lambda index, hidden, states=states: states.append(hidden))
        # Without padding, as captions differ in length.
        pieces.append(torch.stack(states, dim=2)[mask.bool()].to(dtype))
        lengths += mask.sum(dim=1).tolist()
    return TextStates(torch.cat(pieces), tuple(lengths))
