"""Tiny models in the released layouts: a trained set in the package, and random ones to write."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .write import TinySet

__all__ = ["embedded_dir", "embedded_set"]


def embedded_dir() -> Path:
    """Folder of the embedded model set, laid out like ComfyUI's ``models`` folder."""
    return Path(__file__).resolve().parents[1] / "assets" / "tiny"


def embedded_set() -> TinySet:
    """Files of the embedded model set: generation 2.3 in bfloat16, trained by ``ltx2 train tiny``."""
    from .write import TinySet

    return TinySet.in_folder(embedded_dir())
