"""Builds prompts from named parts: what is heard, what is seen, and the scene.

Names, their order and the tables of words are data, in ``assets/prompt_words.json``.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib import resources
from typing import TypedDict, cast


class Field(TypedDict):
    """One part of a prompt: which of audio, visual and scene it belongs to, and its help."""

    part: str
    help: str


@lru_cache(maxsize=1)
def tables() -> Mapping[str, object]:
    """The tables of the file: fields of a prompt, and words, strengths, sizes and lengths by name."""
    text = (resources.files("ltx2_core") / "assets" / "prompt_words.json").read_text("utf-8")
    return cast("Mapping[str, object]", json.loads(text))


def fields() -> Mapping[str, Field]:
    """The parts that a prompt is built from, in their order."""
    return cast("Mapping[str, Field]", tables()["fields"])


def build_prompt(parts: Mapping[str, str]) -> str:
    """Join named parts to one prompt: audio, then visual, then scene, with commas; empty ones are left out.

    Raises ValueError for a name that :func:`fields` does not have, and if all parts are empty.
    """
    for name in parts:
        if name not in fields():
            near = difflib.get_close_matches(name, fields(), 1)
            meant = f"did you mean {near[0]}?" if near else f"use {', '.join(fields())}"
            raise ValueError(f"a prompt has no part {name!r}: {meant}")
    joined = _joined(parts.get(name, "") for name in fields())
    if not joined:
        raise ValueError(f"all parts of the prompt are empty: give one of {', '.join(fields())}")
    return joined


def with_sound(
    visual: str,
    *,
    dialogue: str = "",
    ambient: Iterable[str] = (),
    music: str = "",
    effects: Iterable[str] = (),
) -> str:
    """Add to a description of the video what is heard; without any sound the result is ``visual`` itself.

    ``music`` is a style, such as "gentle".
    """
    return _joined((visual, dialogue, *ambient, f"{music.strip()} music" if music.strip() else "", *effects))


def shot(*sentences: str) -> str:
    """Join the sentences of a shot: camera, subject with action, look; empty ones are left out."""
    clean = [sentence.strip().rstrip(".") for sentence in sentences]
    return " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in clean if sentence)


def _joined(parts: Iterable[str]) -> str:
    return ", ".join(part.strip() for part in parts if part.strip())
