"""T5's tokenizer, as LTX-Video was trained with it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from tokenizers import Tokenizer as FastTokenizer

from ..storage.files import entries

logger = logging.getLogger(__name__)

MAX_TOKENS = 256
"""The length at which the official pipeline cuts a prompt, its end token included."""
END, PADDING = 1, 0
_FILES = ("tokenizer.json", "spiece.model", "tokenizer.model")


class T5Tokenizer:
    """Turns a prompt into token ids: stripped, cut to ``max_tokens``, with the end token behind.

    ``encode`` maps text to ids without special tokens.
    """

    def __init__(self, encode: Callable[[str], list[int]], *, max_tokens: int = MAX_TOKENS) -> None:
        self._encode, self.max_tokens = encode, max_tokens

    def __call__(self, prompt: str) -> list[int]:
        ids = self._encode(prompt.strip())
        if len(ids) >= self.max_tokens:
            used = self.max_tokens - 1
            logger.warning("the prompt has %d tokens; only the first %d are used", len(ids), used)
            ids = ids[:used]
        return [*ids, END]


def find_t5_tokenizer(path: Path) -> Path:
    """The tokenizer of the T5 at ``path``: in its folder or below, or next to a single file.

    Next to a file means in the same folder, or in a folder there with the name of the file or ``tokenizer``.
    Raises ValueError if there is none.
    """
    if path.is_file():
        beside = [path.with_suffix(""), path.parent / "tokenizer"]
        found = [p for folder in beside if folder.is_dir() for p in entries(folder)]
        found += [path.parent / name for name in _FILES]
    else:
        found = entries(path)
    for name in _FILES:
        for file in found:
            if file.name == name and file.is_file():
                return file
    where = f"next to {path}, which holds none" if path.is_file() else f"in {path} or below it"
    raise ValueError(
        "the text encoder needs T5's tokenizer: put tokenizer.json or spiece.model (from the folder "
        f"tokenizer of a diffusers LTX-Video, or from google/t5-v1_1-xxl) {where}"
    )


def load_t5_tokenizer(path: Path) -> T5Tokenizer:
    """Load the tokenizer of the T5 at ``path``; raises ValueError if there is none or it is damaged."""
    file = find_t5_tokenizer(path)
    return T5Tokenizer(_json(file) if file.suffix == ".json" else _sentencepiece(file))


def _json(file: Path) -> Callable[[str], list[int]]:
    try:
        fast = FastTokenizer.from_file(str(file))
    except Exception as error:  # noqa: BLE001 the tokenizers library raises plain Exception
        raise ValueError(f"the tokenizer {file} is damaged ({error}); download it again") from None
    # Settings of the file would pad or cut before the end token.
    fast.no_padding()
    fast.no_truncation()
    if fast.token_to_id("</s>") != END:
        raise ValueError(f"{file} is not a T5 tokenizer: its token {END} is not </s>")
    return lambda text: list(fast.encode(text, add_special_tokens=False).ids)


def _sentencepiece(file: Path) -> Callable[[str], list[int]]:
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError as error:
        raise ValueError(
            f"the tokenizer {file} needs the package sentencepiece: pip install sentencepiece, or use a "
            "tokenizer.json"
        ) from error
    try:
        pieces = SentencePieceProcessor(model_proto=file.read_bytes())
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"the tokenizer {file} is damaged ({error}); download it again") from None
    if pieces.eos_id() != END:
        raise ValueError(f"{file} is not a T5 tokenizer: its end token is {pieces.eos_id()}, not {END}")
    return lambda text: list(pieces.encode(text))
