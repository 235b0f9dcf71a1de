"""The LoRA files of a run: how a caller names them, and how they are opened."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, cast

from ..loading import Lora, LoraSpec, open_lora
from ..loading.lora import BY_RECIPE, STACKED, is_distilled
from .recipes import Recipe

LoraFile = LoraSpec | tuple[str | os.PathLike[str], float | Literal["recipe"]] | str | os.PathLike[str]
"""A LoRA file: its path, (path, strength), or a ``LoraSpec`` with strengths for video and audio."""

_log = logging.getLogger(__name__)


def open_loras(files: Sequence[LoraFile], recipe: Callable[[], Recipe] | None = None) -> tuple[Lora, ...]:
    """Open LoRA files with the strengths that the caller named, by default 1; only headers are read.

    ``recipe`` returns the default settings of the checkpoint, for files whose strength is "recipe"; None if
    there is no such file. Raises TypeError for anything but a list or tuple of files.
    """
    if not isinstance(files, (list, tuple)):
        raise TypeError(
            f"loras must be a list of files, such as ['a.safetensors', ('b.safetensors', 0.5)]; got {files!r}"
        )
    return tuple(_open(file, recipe) for file in files)


def strength_text(lora: Lora, recipe: Recipe) -> str:
    """The strength of ``lora`` and where it comes from, for plans.

    For a distilled LoRA the strength of the published graphs, in ``recipe``, is named too if it differs.
    """
    text = f"strength {lora.strength:g}"
    if lora.reason:
        return f"{text} {lora.reason}"
    if is_distilled(lora.path) and lora.strength != recipe.distilled_lora:
        return (
            f"{text} (published graphs of LTX-{recipe.generation}: {recipe.distilled_lora:g}, "
            f"which :{BY_RECIPE} takes)"
        )
    return text


def warn_of_stacked(loras: Sequence[Lora]) -> None:
    """Log a warning if several of ``loras`` are IC-LoRAs, which would compete for the same reference."""
    names = [lora.path.name for lora in loras if lora.is_ic_lora and lora.strength]
    # One reference serves all IC-LoRAs of a run, so several of them compete for it.
    if len(names) > 1:
        _log.warning("%s: %s", " and ".join(names), STACKED)


def _open(file: LoraFile, recipe: Callable[[], Recipe] | None) -> Lora:
    if isinstance(file, tuple) and file[1] == BY_RECIPE:
        file = LoraSpec(path=file[0], strength=BY_RECIPE)
    if isinstance(file, tuple):
        return open_lora(*cast("tuple[str | os.PathLike[str], float]", file))
    if not isinstance(file, LoraSpec):
        return open_lora(file)
    strength, reason = file.strength, ""
    if strength == BY_RECIPE:
        if recipe is None:
            raise ValueError(f"{file.path}: the strength of a detail LoRA is a number, not {BY_RECIPE!r}")
        chosen = recipe()
        strength, reason = chosen.distilled_lora, chosen.reason
    opened = open_lora(
        file.path,
        float(strength),
        video_strength=file.video_strength,
        audio_strength=file.audio_strength,
    )
    return replace(opened, reason=reason)
