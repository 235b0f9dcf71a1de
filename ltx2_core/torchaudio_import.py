"""Optional import of torchaudio: used if it is installed and works with this torch, never required."""

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
    """Result of the import: ``functional`` is ``torchaudio.functional``; None if that is not used.

    ``broken`` says that torchaudio is installed but does not work; ``reason`` is a sentence that says why it
    is not used, empty if it is.
    """

    functional: ModuleType | None
    broken: bool
    """True if it is installed but does not work: built for another torch, or missing a dependency."""
    reason: str


@cache
def load_torchaudio() -> Torchaudio:
    """Import torchaudio and call ``resample`` and ``melscale_fbanks`` of it once, to see if they work.

    The result is cached for the process. Nothing is raised: after a failure, which is logged, the result has
    ``functional`` None and the reason.
    """
    try:
        functional = importlib.import_module("torchaudio.functional")
        # A build for another torch may import and fail only when it is called.
        functional.resample(torch.zeros(1, 4), 2, 1)
        functional.melscale_fbanks(4, 0.0, 1.0, 1, 2)
        return Torchaudio(functional, False, "")
    except Exception as error:  # noqa: BLE001 binaries of another torch raise any of a dozen errors
        # A missing dependency of torchaudio raises the same error under another name.
        absent = isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] == "torchaudio"
        reason = "torchaudio is not installed"
        if not absent:
            versions = f"torchaudio {version('torchaudio')} does not work with torch {version('torch')}"
            reason = f"{versions}: {type(error).__name__}: {error}"
    logger.info("resampling and mel filters by own functions: %s", reason)
    return Torchaudio(None, not absent, reason)


@contextmanager
def without_broken_torchaudio() -> Iterator[None]:
    """A context in which an installed torchaudio that does not work is replaced by an empty module.

    transformers imports torchaudio together with any of its models if the package is installed. Without the
    empty module, a broken torchaudio would make the import of the text encoder fail.
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
    """The version of an installed package, from its metadata; "(unknown version)" if it has none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(unknown version)"
