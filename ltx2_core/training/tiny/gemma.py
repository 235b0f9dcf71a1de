"""The text encoder of the tiny set: a random Gemma 3 whose tokenizer covers the words of all captions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..world import vocabulary

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
        words=tuple(dict.fromkeys([*vocabulary(), *re.findall(r"[a-z]+", " ".join(prompts).lower())])),
        vocab_size=GEMMA_VOCABULARY,
    )
