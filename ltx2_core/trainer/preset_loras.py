"""LoRAs that are merged into the model while another one is trained on top of it."""

from __future__ import annotations

from pathlib import Path

from ..loading import Checkpoint, Component, Lora, open_lora
from .settings import LoraSettings, TrainSettings


def preset_loras(settings: TrainSettings, base: Checkpoint) -> tuple[Lora, ...]:
    """Open the preset LoRAs of a run; none for a full one.

    Raises ValueError for a file that is none, or that fits no layer of the transformer in ``base``.
    """
    if not isinstance(settings, LoraSettings):
        return ()
    found = []
    for text in settings.preset_loras:
        path, strength = split_strength(text)
        if not path.exists():
            raise ValueError(f"preset_loras: no file at {path}")
        lora = open_lora(path, strength)
        base.lora_report(Component.TRANSFORMER, lora).require_match()
        found.append(lora)
    return tuple(found)


def split_strength(text: str) -> tuple[Path, float]:
    """Split ``FILE[:STRENGTH]``; the strength is 1 by default."""
    name, _, last = text.rpartition(":")
    try:
        return (Path(name), float(last)) if name else (Path(text), 1.0)
    except ValueError:
        # The colon of a Windows drive belongs to the name.
        return Path(text), 1.0
