"""torchaudio where it is installed and works with this torch; without it, nothing else fails."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import NamedTuple

import torch

logger = logging.getLogger(__name__)


class Torchaudio(NamedTuple):
    """``torchaudio.functional``, or None and the reason."""

    functional: ModuleType | None
    broken: bool
    """Installed, but it does not work: its binaries are for another torch, or it lacks a package."""
    reason: str


@cache
def load_torchaudio() -> Torchaudio:
    """Import torchaudio and try the two functions in use; once a process, logged where it fails."""
    try:
        functional = importlib.import_module("torchaudio.functional")
        functional.resample(torch.zeros(1, 4), 2, 1)
        functional.melscale_fbanks(4, 0.0, 1.0, 1, 2)
        return Torchaudio(functional, False, "")
    except Exception as error:  # binaries of another torch raise OSError, RuntimeError, AttributeError, ...
        absent = isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] == "torchaudio"
        reason = "torchaudio is not installed"
        if not absent:
            versions = f"torchaudio {version('torchaudio')} does not work with torch {version('torch')}"
            reason = f"{versions}: {type(error).__name__}: {error}"
    logger.info("resampling and mel filters by own functions: %s", reason)
    return Torchaudio(None, not absent, reason)


@contextmanager
def without_broken_torchaudio() -> Iterator[None]:
    """Puts an empty module in the place of a torchaudio that cannot be imported.

    transformers imports an installed torchaudio together with any of its models, and remembers from its own
    import on that there is one; so one that raises would take the text encoder with it.
    """
    if not load_torchaudio().broken or "torchaudio" in sys.modules:
        yield
        return
    empty = ModuleType("torchaudio")
    empty.__spec__ = ModuleSpec("torchaudio", None)
    sys.modules["torchaudio"] = empty
    try:
        yield
    finally:
        if sys.modules.get("torchaudio") is empty:
            del sys.modules["torchaudio"]


def version(package: str) -> str:
    """Of an installed package, as its metadata states it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(unknown version)"
