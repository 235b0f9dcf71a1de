"""One import of torchaudio, so that a torch and torchaudio that do not match are reported by name."""

from __future__ import annotations

import importlib
from importlib import metadata
from types import ModuleType


def torchaudio_functional() -> ModuleType:
    """``torchaudio.functional``; RuntimeError naming both versions where it cannot be imported."""
    try:
        return importlib.import_module("torchaudio.functional")
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        raise RuntimeError(
            f"torchaudio ({_version('torchaudio')}) does not load with torch ({_version('torch')}): {error}. "
            "Both must be of the same version and the same CPU or CUDA build: reinstall the pair together, "
            "for example `pip install torch==2.11.0 torchaudio==2.11.0`, which is known to work."
        ) from error


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
