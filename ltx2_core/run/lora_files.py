"""The LoRA files of a run: how a caller names them, and how they are opened."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from ..loading import Lora, LoraSpec, open_lora
from ..loading.lora import STACKED

LoraFile = LoraSpec | tuple[str | os.PathLike[str], float] | str | os.PathLike[str]
"""A LoRA file: its path, (path, strength), or a ``LoraSpec`` with strengths for video and audio."""

_log = logging.getLogger(__name__)


def open_loras(files: Sequence[LoraFile]) -> tuple[Lora, ...]:
    """Open LoRA files with the strengths that the caller named, by default 1; only headers are read."""
    return tuple(_open(file) for file in files)


def warn_of_stacked(loras: Sequence[Lora]) -> None:
    """Log a warning if several of ``loras`` are IC-LoRAs, which would compete for the same reference."""
    names = [lora.path.name for lora in loras if lora.is_ic_lora and lora.strength]
    # One reference serves all IC-LoRAs of a run, so several of them compete for it.
    if len(names) > 1:
        _log.warning("%s: %s", " and ".join(names), STACKED)


def _open(file: LoraFile) -> Lora:
    if isinstance(file, tuple):
        return open_lora(*file)
    if not isinstance(file, LoraSpec):
        return open_lora(file)
    return open_lora(
        file.path,
        file.strength,
        video_strength=file.video_strength,
        audio_strength=file.audio_strength,
    )
