"""Tokenizes prompts as in the training of LTX-2.

Letters: B prompts, T tokens of the longest prompt.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch
from tokenizers import Tokenizer as FastTokenizer
from torch import Tensor

from ..storage.gguf import is_gguf
from .folder import find_tokenizer
from .gguf_encoder import check_gguf_tokenizer, read_gguf_tokenizer
from .single_file import find_tokenizer_tensor, tokenizer_bytes

logger = logging.getLogger(__name__)

# The length to which the official pipelines pad and truncate.
MAX_TOKENS = 1024

MARKERS = ("<start_of_turn>", "<end_of_turn>", "<|turn>", "<turn|>")
"""Tokens that divide a conversation into turns, of Gemma 3 and Gemma 4."""
ENDS = ("<end_of_turn>", "<turn|>")
"""Those of the ``MARKERS`` that end a turn."""

IMAGE_MARKERS: Mapping[int, tuple[str, str, str]] = {
    3: ("<start_of_image>", "<image_soft_token>", "<end_of_image>"),
    4: ("<|image>", "<|image|>", "<image|>"),
}
"""Generation of Gemma -> the tokens before an image in a conversation, of its content, and after it."""

_MARKS = (*MARKERS, *IMAGE_MARKERS[3], *IMAGE_MARKERS[4])
_MARK = re.compile(f"({'|'.join(map(re.escape, _MARKS))})")


class Tokenizer:
    """Tokenizes prompts: strips whitespace, prepends BOS, truncates to ``max_tokens`` and pads on the left.

    There is no chat template and no EOS. Prompts are padded to the longest one of the call instead of to 1024
    tokens, which is faster and does not change the result: Gemma masks padding, and its rotary embedding
    depends only on differences of positions.
    """

    def __init__(
        self,
        encode: Callable[[str], list[int]],
        *,
        vocab_size: int,
        bos_id: int = 2,
        pad_id: int = 0,
        max_tokens: int = MAX_TOKENS,
        decode: Callable[[list[int]], str] | None = None,
        special: Mapping[str, int] = MappingProxyType({}),
        eos_id: int | None = None,
    ) -> None:
        """Wrap ``encode``, which maps text to token ids without special tokens, and ``decode``, its reverse.

        ``vocab_size`` is the number of tokens, ``bos_id`` and ``pad_id`` are ids, ``max_tokens`` is the
        length to which prompts are truncated. ``special`` maps the tokens that divide a conversation into
        turns (``MARKERS``, such as "<start_of_turn>") or stand for an image (``IMAGE_MARKERS``) to ids, as
        far as this tokenizer has them. ``eos_id``
        is the id of the token that ends a text, None if there is none.
        """
        self.eos_id = eos_id
        self.encode = encode
        self.decode = decode
        self.special = special
        self.vocab_size = vocab_size
        self.bos_id = bos_id
        self.pad_id = pad_id
        self.max_tokens = max_tokens

    def __call__(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokenize ``prompts``: token ids and attention mask, both int64 (B, T); the mask is 0 on padding.

        T is the number of tokens of the longest prompt.

        Raises:
            ValueError: ``prompts`` is empty or a single string.
        """
        # A string is a sequence too, and would become one prompt for each letter.
        if isinstance(prompts, str) or not prompts:
            raise ValueError(f"prompts must be a list of at least one string; got {prompts!r}")
        tokens = [self._ids(prompt) for prompt in prompts]
        longest = max(map(len, tokens))
        # Padding on the left, as in training, so that all prompts end at the same position.
        ids = torch.full((len(tokens), longest), self.pad_id, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for index, one in enumerate(tokens):
            ids[index, longest - len(one) :] = torch.tensor(one)
            mask[index, longest - len(one) :] = 1
        return ids, mask

    @property
    def ends(self) -> tuple[str, ...]:
        """Those of ``ENDS``, the tokens at the end of a turn of a conversation, that this tokenizer has."""
        return tuple(name for name in ENDS if name in self.special)

    def conversation_ids(self, text: str) -> list[int]:
        """Token ids of a conversation, BOS first.

        Each of ``MARKERS`` and ``IMAGE_MARKERS`` becomes one id. Raises ValueError if
        ``text`` has markers that this tokenizer lacks.
        """
        ids = [self.bos_id]
        for part in _MARK.split(text):
            if part in _MARKS and part not in self.special:
                raise ValueError(
                    f"this tokenizer has no {part}: it belongs to no language model that answers, so that it "
                    "cannot enhance prompts"
                )
            ids += [self.special[part]] if part in _MARKS else self.encode(part)
        return ids

    def _ids(self, prompt: str) -> list[int]:
        # Stripped as in the official encoder: a space at the end is a token of its own and changes the
        # features.
        ids = [self.bos_id, *self.encode(prompt.strip())]
        if len(ids) > self.max_tokens:
            logger.warning("the prompt has %d tokens; only the first %d are used", len(ids), self.max_tokens)
        return ids[: self.max_tokens]


def check_tokenizer(path: str | os.PathLike[str]) -> None:
    """Raise ValueError if the folder or file ``path`` has no tokenizer for :func:`load_tokenizer`.

    The tokenizer is not loaded.
    """
    path = Path(path)
    if is_gguf(path):
        check_gguf_tokenizer(path)
    elif path.is_file():
        find_tokenizer_tensor(path)
    else:
        find_tokenizer(path)


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """Load Gemma's tokenizer from a Hugging Face folder or from a single file of a text encoder.

    Raises:
        ValueError: there is no tokenizer, it is not Gemma's, or the package sentencepiece is missing.
    """
    found, kind, content = read_tokenizer(Path(path))
    return _from_json(found, content) if kind == "tokenizer_json" else _from_sentencepiece(found, content)


def read_tokenizer(path: Path) -> tuple[Path, str, bytes]:
    """Read the tokenizer of a folder or file: (file that holds it, its kind, its bytes).

    The kind is one of ``TOKENIZERS``: "tokenizer_json", or "spiece_model" for a sentencepiece model.

    Raises:
        ValueError: there is no tokenizer.
    """
    if is_gguf(path):
        return read_gguf_tokenizer(path)
    if path.is_file():
        return path, *tokenizer_bytes(path)
    found = find_tokenizer(path)
    return found, "tokenizer_json" if found.suffix == ".json" else "spiece_model", found.read_bytes()


def _from_json(path: Path, content: bytes) -> Tokenizer:
    try:
        fast = FastTokenizer.from_str(content.decode())
    except Exception as error:  # noqa: BLE001 the tokenizers library raises plain Exception
        raise ValueError(f"the tokenizer of {path} is damaged ({error}); download it again") from None
    # Settings of the file would pad or truncate before BOS is prepended.
    fast.no_padding()
    fast.no_truncation()
    bos, pad = fast.token_to_id("<bos>"), fast.token_to_id("<pad>")
    if bos is None or pad is None:
        raise ValueError(f"{path} is not a Gemma tokenizer: it lacks the tokens <bos> and <pad>")

    def encode(text: str) -> list[int]:
        return list(fast.encode(text, add_special_tokens=False).ids)

    def decode(ids: list[int]) -> str:
        return str(fast.decode(ids, skip_special_tokens=True))

    # Gemma 3 and 4 have different markers, of which a tokenizer holds one pair.
    found = {marker: fast.token_to_id(marker) for marker in _MARKS}
    special = {marker: number for marker, number in found.items() if number is not None}
    return Tokenizer(
        encode,
        vocab_size=fast.get_vocab_size(),
        bos_id=bos,
        pad_id=pad,
        decode=decode,
        special=special,
        eos_id=fast.token_to_id("<eos>"),
    )


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

    def decode(ids: list[int]) -> str:
        return str(pieces.decode(ids))

    # An unknown piece has the id of <unk>, whose piece is another.
    special = {
        marker: number
        for marker in _MARKS
        if pieces.id_to_piece(number := pieces.piece_to_id(marker)) == marker
    }
    return Tokenizer(
        encode,
        vocab_size=pieces.get_piece_size(),
        bos_id=pieces.bos_id(),
        pad_id=pieces.pad_id(),
        decode=decode,
        special=special,
        eos_id=pieces.eos_id(),
    )
