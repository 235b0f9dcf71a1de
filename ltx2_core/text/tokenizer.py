"""Prompts to token ids, in the way the connectors were trained on.

Letters: B prompts, T tokens of the longest prompt.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer as FastTokenizer
from torch import Tensor

from .folder import find_tokenizer
from .single_file import tokenizer_bytes

logger = logging.getLogger(__name__)

MAX_TOKENS = 1024


class Tokenizer:
    """Strips the prompt, puts BOS first, keeps the first ``max_tokens`` tokens and pads on the left.

    No chat template, no EOS. Prompts are padded to the longest of the call and not to 1024: Gemma masks
    padding and its rotary positions only matter as differences, so the valid tokens come out the same.
    """

    def __init__(
        self,
        encode: Callable[[str], list[int]],
        *,
        vocab_size: int,
        bos_id: int = 2,
        pad_id: int = 0,
        max_tokens: int = MAX_TOKENS,
    ) -> None:
        """``encode`` turns text into ids without special tokens."""
        self.encode = encode
        self.vocab_size = vocab_size
        self.bos_id = bos_id
        self.pad_id = pad_id
        self.max_tokens = max_tokens

    def __call__(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids and mask, both (B, T) int64; the mask is 1 on tokens and 0 on padding.

        Raises:
            ValueError: ``prompts`` is one string or empty.
        """
        if isinstance(prompts, str) or not prompts:
            raise ValueError(f"prompts must be a list of at least one string; got {prompts!r}")
        rows = [self._ids(prompt) for prompt in prompts]
        longest = max(map(len, rows))
        ids = torch.full((len(rows), longest), self.pad_id, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for index, row in enumerate(rows):
            ids[index, longest - len(row) :] = torch.tensor(row)
            mask[index, longest - len(row) :] = 1
        return ids, mask

    def _ids(self, prompt: str) -> list[int]:
        ids = [self.bos_id, *self.encode(prompt.strip())]
        if len(ids) > self.max_tokens:
            logger.warning("the prompt has %d tokens; only the first %d are used", len(ids), self.max_tokens)
        return ids[: self.max_tokens]


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """Gemma's tokenizer from a folder (``tokenizer.json`` or ``tokenizer.model``) or from an encoder file.

    Raises:
        ValueError: there is none, it is not Gemma's, or a package that it needs is missing.
    """
    path = Path(path)
    if path.is_file():
        kind, content = tokenizer_bytes(path)
        return _from_json(path, content) if kind == "tokenizer_json" else _from_sentencepiece(path, content)
    found = find_tokenizer(path)
    read = _from_json if found.suffix == ".json" else _from_sentencepiece
    return read(found, found.read_bytes())


def _from_json(path: Path, content: bytes) -> Tokenizer:
    try:
        fast = FastTokenizer.from_str(content.decode())
    except Exception as error:  # the library raises nothing more specific
        raise ValueError(f"the tokenizer of {path} is damaged ({error}); download it again") from None
    fast.no_padding()
    fast.no_truncation()
    bos, pad = fast.token_to_id("<bos>"), fast.token_to_id("<pad>")
    if bos is None or pad is None:
        raise ValueError(f"{path} is not a Gemma tokenizer: it lacks the tokens <bos> and <pad>")

    def encode(text: str) -> list[int]:
        return list(fast.encode(text, add_special_tokens=False).ids)

    return Tokenizer(encode, vocab_size=fast.get_vocab_size(), bos_id=bos, pad_id=pad)


def _from_sentencepiece(path: Path, content: bytes) -> Tokenizer:
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError as error:
        raise ValueError(
            f"the tokenizer of {path} needs the package sentencepiece: pip install sentencepiece, "
            "or use a folder with tokenizer.json"
        ) from error
    try:
        pieces = SentencePieceProcessor(model_proto=content)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"the tokenizer of {path} is damaged ({error}); download it again") from None
    if pieces.bos_id() < 0 or pieces.pad_id() < 0:
        raise ValueError(f"{path} is not a Gemma tokenizer: it lacks the tokens <bos> and <pad>")

    def encode(text: str) -> list[int]:
        return list(pieces.encode(text))

    return Tokenizer(
        encode, vocab_size=pieces.get_piece_size(), bos_id=pieces.bos_id(), pad_id=pieces.pad_id()
    )
