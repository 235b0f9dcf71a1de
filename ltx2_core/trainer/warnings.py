"""Sentences on what makes a run likely to fail, said before it begins; none of them stops it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..loading.lora import is_distilled
from .cache import Index
from .captions import has_trigger, is_ordinary

_MOST = 3


def warnings_of(base: Path, index: Index, held_out: Index | None) -> Iterator[str]:
    """Yield warnings on the file of the transformer and the trigger, also in the held-out clips."""
    if is_distilled(base):
        yield (
            f"{base.name} is distilled by its name, and drifts in training without guidance: train on the "
            "dev checkpoint, and use the LoRA with both"
        )
    if not index.trigger:
        return
    if is_ordinary(index.trigger):
        yield ordinary_text(index.trigger)
    entries = () if held_out is None else held_out.entries
    lacking = [e.where for e in entries if not all(has_trigger(c, index.trigger) for c in e.captions)]
    if lacking:
        more = f" and {len(lacking) - _MOST} more" if len(lacking) > _MOST else ""
        yield (
            f"validation_dataset has captions without the trigger {index.trigger!r}, so that its losses do "
            f"not show what it learns: {', '.join(lacking[:_MOST])}{more}"
        )


def ordinary_text(trigger: str) -> str:
    """The sentence about a trigger that is an ordinary word."""
    return (
        f"the trigger {trigger!r} is an ordinary word, which the model has learned in other senses: choose "
        "one that means nothing"
    )
