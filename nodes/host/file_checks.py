"""Checks whether a model file can be loaded for a purpose, from its header; results are cached.

A check answers with a text that says why a file cannot be loaded, or "" if it can.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from ...ltx2_core.loading.checkpoint import open_checkpoint
from ...ltx2_core.loading.detect import Component
from ...ltx2_core.loading.lora import open_lora
from ...ltx2_core.storage.files import entries
from ...ltx2_core.storage.gguf import is_gguf
from ...ltx2_core.text.folder import NotGemmaError, find_tokenizer
from ...ltx2_core.text.gemma import find_encoder
from ...ltx2_core.text.single_file import TOKENIZERS
from ...ltx2_core.text.t5 import find_t5, is_t5
from ...ltx2_core.text.tokenizer import check_tokenizer

logger = logging.getLogger(__name__)

CACHED = 2**20
"""How many checked files the caches hold; if there were more files, each listing would read all again."""

Stamp = tuple[tuple[str, int, int], ...]
"""For every file of a model: its path, its time of change in ns, and its size in bytes."""


def holds(*components: Component) -> Callable[[Path], str]:
    """Make a check of whether a file holds all of ``components``, for the field ``FileList.problem``.

    The check takes a path and says why the file there lacks one of them; it returns "" if it holds all.
    """
    return lambda path: _lacks(path, _stamp(path), components)


def lora_problem(path: Path) -> str:
    """Why the file ``path`` is no LoRA for LTX-2; "" if it is one."""
    return _lora_problem(path, _stamp(path))


def encoder_problem(path: Path) -> str:
    """Why ``path`` cannot be loaded as a text encoder; "" if it can."""
    return _encoder_problem(path, _stamp(path))[0]


def is_faulty_encoder(path: Path) -> bool:
    """Whether ``path`` is a folder of a Gemma model that cannot be loaded as a text encoder."""
    return _encoder_problem(path, _stamp(path))[1]


def _stamp(path: Path) -> Stamp:
    """Path, time of change and size of every file of the model at ``path``, which may be a file or a folder.

    It is part of the key of the cache of checks, so that a path is checked again when one of its files has
    changed.
    """
    own = _stamp_of(path)
    if path.suffix == ".gguf":
        # A text encoder may have its tokenizer beside it.
        return (own, *(_stamp_of(path.with_name(name)) for name in ("tokenizer.json", "tokenizer.model")))
    if not os.path.isdir(path):
        return (own,)
    # A folder with so many files that listing them raises is no model.
    with suppress(ValueError):
        return (
            own,
            *(_stamp_of(f) for f in entries(path) if f.suffix in (".safetensors", ".json", ".model")),
        )
    return (own,)


def _stamp_of(path: Path) -> tuple[str, int, int]:
    """Path, time of change in ns and size in bytes of one file; time and size are 0 if it cannot be read."""
    try:
        status = path.stat()
    except OSError:
        # An unreadable file still gets a stamp, so that its error is cached and is checked again once it can
        # be read.
        return str(path), 0, 0
    # Time and size stand for the content, because hashing files of many GB at each listing is too slow.
    return str(path), status.st_mtime_ns, status.st_size


@lru_cache(maxsize=CACHED)
def _lacks(path: Path, stamp: Stamp, components: tuple[Component, ...]) -> str:
    def check() -> None:
        checkpoint = open_checkpoint(path)
        for component in components:
            checkpoint.check(component)

    return _reason(path, check)


@lru_cache(maxsize=CACHED)
def _lora_problem(path: Path, stamp: Stamp) -> str:
    def check() -> None:
        if not open_lora(path).is_of_family:
            raise ValueError("it is a LoRA of another model: none of its layers has a name of LTX-2")

    return _reason(path, check)


@lru_cache(maxsize=CACHED)
def _encoder_problem(path: Path, stamp: Stamp) -> tuple[str, bool]:
    """Why ``path`` cannot be loaded as a text encoder ("" if it can), and whether it is a faulty Gemma.

    A faulty Gemma is a folder with a Gemma model that cannot be loaded, such as one without its tokenizer.
    ``stamp`` is not read; it is part of the key of the cache.
    """
    foreign = False

    def check() -> None:
        nonlocal foreign
        if is_t5(path):
            # ComfyUI has the tokenizer of T5 itself.
            find_t5(path)
            return
        try:
            # A folder of another language model is no mistake of the user and is left out without a warning.
            find_encoder(path)
        except NotGemmaError:
            foreign = True
            raise
        if path.is_dir():
            find_tokenizer(path)
        elif is_gguf(path):
            check_tokenizer(path)
        elif not any(name in open_checkpoint(path).tensors for name in TOKENIZERS):
            raise ValueError("it carries no tokenizer")

    reason = _reason(path, check)
    faulty = bool(reason) and not foreign and os.path.isdir(path)
    if faulty:
        warn(f"{path} cannot be loaded: {reason}")
    return reason, faulty


def _reason(path: Path, check: Callable[[], None]) -> str:
    """The message of the error that ``check`` raises, "" if it raises none.

    ``path``, the file that is checked, is shortened to its name in the message. No error is passed on,
    because one bad file must not stop the loading of the nodes.
    """
    try:
        check()
    except (OSError, ValueError) as error:
        return _short(error, path)
    except Exception as error:  # noqa: BLE001 a hostile file may raise anything in a reader
        reason = f"it is malformed ({type(error).__name__}: {_short(error, path)})"
        warn(f"{path} cannot be loaded: {reason}")
        return reason
    return ""


@lru_cache(maxsize=CACHED)
def warn(message: str) -> None:
    """Log a warning; the same message is logged only once."""
    logger.warning("%s", _encodable(message))


def _short(error: Exception, path: Path) -> str:
    """The message of ``error`` with the file's name in place of its path."""
    return _encodable(str(error).replace(str(path), path.name))


def _encodable(text: str) -> str:
    """A copy of ``text`` in which characters that UTF-8 cannot encode, as in odd file names, are escaped."""
    return text.encode("utf-8", "backslashreplace").decode()
