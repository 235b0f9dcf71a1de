"""The text encoders of the tiny sets: a random Gemma whose tokenizer covers the words of all captions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..world import length_words, vocabulary
from ..world.lengths import NUMBERS

GEMMA_WIDTH = 64
GEMMA_LAYERS = 4
GEMMA_VOCABULARY = 1024


def write_world_gemma(folder: Path, *, prompts: Sequence[str] = (), seed: int = 0) -> None:
    """Write a tiny Gemma 3 with random weights and its tokenizer as a Hugging Face folder.

    Each word that captions of the synthetic world or ``prompts`` use is one token.
    """
    from ...text.tiny_gemma import write_tiny_gemma

    write_tiny_gemma(
        folder,
        seed=seed,
        hidden_size=GEMMA_WIDTH,
        layers=GEMMA_LAYERS,
        words=_words(vocabulary(), prompts),
        vocab_size=GEMMA_VOCABULARY,
    )


def write_world_gemma4(folder: Path, source: Path, *, prompts: Sequence[str] = (), seed: int = 0) -> None:
    """Write the tiny Gemma 4 of the world: the Gemma 3 in ``source``, translated.

    Its tokenizer also has the words that name the length of a clip. ``seed`` draws their embeddings; those of
    numbers are alike, so that the duration head finds them.
    """
    from ...text.tiny_gemma4 import translate_tiny_gemma

    words = _words((*vocabulary(), *length_words()), prompts)
    # The words of lengths must not displace pieces of other ones.
    vocab_size = GEMMA_VOCABULARY + 128
    translate_tiny_gemma(folder, source, words=words, alike=NUMBERS, vocab_size=vocab_size, seed=seed)


def _words(own: Sequence[str], prompts: Sequence[str]) -> tuple[str, ...]:
    """All words of ``own`` and of ``prompts``, each once."""
    return tuple(dict.fromkeys([*own, *re.findall(r"[a-z]+", " ".join(prompts).lower())]))
