"""Text for training: a frozen tiny Gemma whose tokenizer knows the world's words, and its states, kept.

Gemma is never trained, so its hidden states are computed once per caption; projection and connectors, which
are trained, start from them. Letters: P tokens of all captions together, L hidden states, D hidden width,
B captions of a batch, T tokens of the longest of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ..text import Gemma, Tokenizer, load_gemma, load_tokenizer
from .world import vocabulary

GEMMA_WIDTH = 64
GEMMA_LAYERS = 4
GEMMA_VOCABULARY = 1024


def write_world_gemma(folder: Path, *, prompts: Sequence[str] = (), seed: int = 0) -> None:
    """A tiny random Gemma 3 as a Hugging Face folder.

    Every word of the world is one token, and so is every word of ``prompts``.
    """
    from ..text.tiny_gemma import write_tiny_gemma

    write_tiny_gemma(
        folder,
        seed=seed,
        hidden_size=GEMMA_WIDTH,
        layers=GEMMA_LAYERS,
        words=tuple(dict.fromkeys([*vocabulary(), *re.findall(r"[a-z]+", " ".join(prompts).lower())])),
        vocab_size=GEMMA_VOCABULARY,
    )


def load_text(folder: Path) -> tuple[Gemma, Tokenizer]:
    """Gemma in float32 with its tokenizer."""
    return load_gemma(folder, dtype=torch.float32), load_tokenizer(folder)


@dataclass(frozen=True)
class TextStates:
    """Hidden states of captions without padding: ``hidden`` (P, L, D), one caption after the other."""

    hidden: Tensor
    lengths: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.lengths)

    def all(self) -> list[Tensor]:
        """(T, L, D) of every caption."""
        return list(torch.split(self.hidden, list(self.lengths)))


@dataclass(frozen=True)
class TextBatch:
    """Padded states of a batch: ``hidden`` (B, T, L, D) float32, ``mask`` (B, T) with 1 on tokens."""

    hidden: Tensor
    mask: Tensor

    def states(self) -> Iterable[Tensor]:
        """The L hidden states (B, T, D), as the projection takes them."""
        return self.hidden.unbind(dim=2)

    def map(self, change: Callable[[Tensor], Tensor]) -> TextBatch:
        """Both tensors changed."""
        return TextBatch(change(self.hidden), change(self.mask))

    def padded(self, length: int) -> TextBatch:
        """With T at least ``length``."""
        more = max(0, length - self.mask.shape[1])
        return TextBatch(F.pad(self.hidden, (0, 0, 0, 0, 0, more)), F.pad(self.mask, (0, more)))


def batch_text(captions: Sequence[Tensor]) -> TextBatch:
    """Captions (T, L, D) of different lengths -> one batch."""
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
    """Hidden states of all captions, computed ``batch`` at a time and kept in ``dtype``."""
    pieces: list[Tensor] = []
    lengths: list[int] = []
    for start in range(0, len(captions), batch):
        ids, mask = tokenizer(list(captions[start : start + batch]))
        states: list[Tensor] = []
        gemma(ids, mask, lambda index, hidden, states=states: states.append(hidden))
        pieces.append(torch.stack(states, dim=2)[mask.bool()].to(dtype))
        lengths += mask.sum(dim=1).tolist()
    return TextStates(torch.cat(pieces), tuple(lengths))
