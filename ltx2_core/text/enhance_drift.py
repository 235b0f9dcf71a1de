"""How much of a prompt is in an enhanced one: by the embeddings of its words, or by their stems."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import torch
from torch import Tensor

from .gemma import Gemma
from .tokenizer import Tokenizer

Vectors: TypeAlias = Callable[[Sequence[str]], Tensor]
"""Maps N words to their embeddings (N, D), D the width of the language model."""

_WORD: Final = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_IDEOGRAPH: Final = re.compile(r"([\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]{1,2})")
"""Two characters of scripts without spaces, which count as a word."""
_ENDINGS: Final = ("ingly", "ing", "edly", "ed", "ies", "es", "ly", "s", "e", "y")
# fmt: off
_STOP: Final = frozenset({
    "a", "an", "and", "are", "as", "at", "be", "by", "for", "from", "has", "he", "her", "his", "in", "into",
    "is", "it", "its", "of", "on", "or", "over", "she", "some", "that", "the", "their", "them", "then",
    "there", "they", "this", "to", "up", "was", "which", "while", "who", "with", "video", "clip", "shot",
    "scene", "camera",
})
# fmt: on
"""Words without content, and those of every prompt for a video."""


def word_list(text: str) -> list[str]:
    """The words of ``text`` in lower case; two characters of scripts without spaces count as one word."""
    return _WORD.findall(_IDEOGRAPH.sub(r"\1 ", text).lower())


def likeness(prompt: str, text: str, vectors: Vectors | None = None) -> float:
    """How much of ``prompt`` is in ``text``, from 0 to 1.

    For each content word of the prompt the most similar word of the text is found, and the result is the
    mean of these similarities: cosines of ``vectors``, or without them 1 for words of the same stem and 0
    for others. A prompt without content words is in every text.
    """
    asked = [word for word in dict.fromkeys(word_list(prompt)) if word not in _STOP]
    words = list(dict.fromkeys(word_list(text)))
    if not asked or not words:
        return float(not asked)
    stems = {_stem(word) for word in words}
    same = torch.tensor([float(_stem(word) in stems) for word in asked])
    if vectors is not None:
        one, other = (torch.nn.functional.normalize(vectors(some).float(), dim=-1) for some in (asked, words))
        # Forms of one word count as the word, though their embeddings differ.
        same = torch.maximum(same, (one @ other.T).amax(dim=-1).clamp(0, 1).cpu())
    return float(same.mean())


def vectors_of(gemma: Gemma, tokenizer: Tokenizer) -> Vectors:
    """Embeddings of words by the token embeddings of ``gemma``: the mean over the tokens of each word."""

    @torch.no_grad()
    def vectors(words: Sequence[str]) -> Tensor:
        # With a space in front, as within a sentence.
        ids = [tokenizer.encode(f" {word}") or [tokenizer.pad_id] for word in words]
        embed, device = gemma.model.embed_tokens, gemma.model.device
        return torch.stack([embed(torch.tensor(one, device=device)).float().mean(dim=0) for one in ids])

    return vectors


def _stem(word: str) -> str:
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            stem = word.removesuffix(ending)
            # "running" and "runs" have one stem.
            return stem[:-1] if len(stem) > 3 and stem[-1] == stem[-2] else stem
    return word
