"""Gives a tiny Gemma the marks of turns that language models have, so that it can answer."""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken
from tokenizers import Tokenizer as FastTokenizer

from ltx2_core.text.tiny_gemma import VOCAB_SIZE, write_tokenizer
from ltx2_core.text.tokenizer import MARKERS

VOCABULARY = VOCAB_SIZE
"""Tokens of a tiny Gemma, of which the marks are the last."""


def with_marks(folder: Path) -> Path:
    """Give the tokenizer of a tiny Gemma the marks of turns, as language models have them."""
    write_tokenizer(folder, vocab_size=VOCABULARY - 8)
    path = str(folder / "tokenizer.json")
    fast = FastTokenizer.from_file(path)
    fast.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in MARKERS])
    fast.save(path)
    return folder
