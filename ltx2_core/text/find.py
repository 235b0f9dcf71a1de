"""Finds a text encoder of either kind, Gemma (LTX-2) or T5 (LTX-Video), in a folder or file."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from ..storage.files import ParsedJson
from ..storage.header import TensorInfo
from .gemma import find_encoder
from .t5 import find_t5, is_t5
from .t5_tokenizer import find_t5_tokenizer
from .tokenizer import check_tokenizer

FoundEncoder: TypeAlias = tuple[ParsedJson, dict[str, TensorInfo], ParsedJson]
"""Settings, header entries and metadata of a text encoder."""


def find_text_encoder(path: Path) -> FoundEncoder:
    """Settings, header entries and metadata of the text encoder at ``path``, from headers only.

    They are those of :func:`.t5.find_t5` or :func:`.gemma.find_encoder`; ``model_type`` of the settings tells
    which. Raises ValueError if there is neither.
    """
    return find_t5(path) if is_t5(path) else find_encoder(path)


def check_its_tokenizer(path: Path) -> None:
    """Raise ValueError if the text encoder at ``path`` has no tokenizer. It is not loaded."""
    if is_t5(path):
        find_t5_tokenizer(path)
    else:
        check_tokenizer(path)
