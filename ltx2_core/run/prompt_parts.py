"""Builds prompts from named parts: what is heard, what is seen, and the scene.

Names, their order and the tables of words are data, in ``assets/prompt_words.json``.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from importlib import resources
from typing import Final, TypeAlias, TypedDict, cast


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


Parts: TypeAlias = Mapping[str, "str | Mapping[str, str]"]
"""Named parts, or those of "audio", "visual" and "scene" together under these names."""


def build_prompt(parts: Parts) -> str:
    """Join named parts to one prompt: audio, then visual, then scene, with commas; empty ones are left out.

    Raises ValueError for a name that :func:`fields` does not have, and if all parts are empty.
    """
    given: dict[str, str] = {}
    for name, value in parts.items():
        given |= {name: value} if isinstance(value, str) else value
    for name in given:
        if name not in fields():
            near = difflib.get_close_matches(name, fields(), 1)
            meant = f"did you mean {near[0]}?" if near else f"use {', '.join(fields())}"
            raise ValueError(f"a prompt has no part {name!r}: {meant}")
    joined = _joined(given.get(name, "") for name in fields())
    if not joined:
        raise ValueError(f"all parts of the prompt are empty: give one of {', '.join(fields())}")
    return joined


def with_sound(
    visual: str,
    *,
    dialogue: str = "",
    ambient: str | Iterable[str] = (),
    music: str = "",
    effects: str | Iterable[str] = (),
) -> str:
    """Add to a description of the video what is heard; without any sound the result is ``visual`` itself.

    ``ambient`` and ``effects`` are one text or several, ``music`` is a style, such as "gentle".
    """
    around, sounds = ((one,) if isinstance(one, str) else one for one in (ambient, effects))
    return _joined((visual, dialogue, *around, f"{music.strip()} music" if music.strip() else "", *sounds))


def shot(*sentences: str) -> str:
    """Join the sentences of a shot: camera, subject with action, look; empty ones are left out."""
    clean = [sentence.strip().rstrip(".") for sentence in sentences]
    return " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in clean if sentence)


def shot_of(parts: Mapping[str, str]) -> str:
    """Write named parts as the sentences of a shot: camera, subject with action, setting, look, sound.

    Raises ValueError if all parts are empty.
    """
    given = {name: parts.get(name, "").strip() for name in fields()}
    if not any(given.values()):
        raise ValueError(f"all parts of the prompt are empty: give one of {', '.join(fields())}")
    seen = " ".join(filter(None, (given["subject"], given["action"])))
    look = ", ".join(filter(None, (given[name] for name in ("style", "lighting", "atmosphere"))))
    heard = [given[name] for name, field in fields().items() if field["part"] == "audio"]
    return shot(given["camera"], seen, given["setting"], look, *heard)


def sound_last(parts: Mapping[str, str]) -> str:
    """Write named parts as what is seen and the scene, then what is heard; ``music`` is a style.

    Raises ValueError if nothing that is seen is given.
    """
    seen = _joined(parts.get(name, "") for name, field in fields().items() if field["part"] != "audio")
    if not seen:
        raise ValueError("nothing is seen: give subject, action or another part that is not audio")
    return with_sound_of(parts, seen)


def with_sound_of(parts: Mapping[str, str], visual: str) -> str:
    """Add to a description of the video the named parts that are heard, as :func:`with_sound` does."""
    return with_sound(
        visual,
        dialogue=parts.get("dialogue", ""),
        ambient=[parts.get("ambient", "")],
        music=parts.get("music", ""),
        effects=[parts.get("effects", "")],
    )


FORMS: Final[Mapping[str, Callable[[Mapping[str, str]], str]]] = {
    "parts: audio, visual, scene": build_prompt,
    "sentences: camera, subject, look": shot_of,
    "video, then audio": sound_last,
}
"""Name of a form of prompts -> the function that writes named parts in it."""


def sound_words(part: str) -> list[str]:
    """The words of the table for "dialogue", "ambient", "music" or "effects"."""
    return cast("Mapping[str, list[str]]", tables()["sound words"])[part]


def camera_moves() -> list[str]:
    """The camera moves of the table."""
    return cast("list[str]", tables()["camera moves"])


def with_words(
    parts: Mapping[str, str],
    *,
    camera: str = "",
    dialogue: str = "",
    ambient: str = "",
    music: str = "",
    effects: str = "",
) -> dict[str, str]:
    """Copy named parts, with words of the tables put to them; an empty word changes nothing.

    A word of the camera, of music and of effects is added before the part, one of ambient sound describes
    it, and one of dialogue, such as "whispers", is put before the part in quotes.
    """
    made = {name: text.strip() for name, text in parts.items()}
    for name, word in (("camera", camera), ("music", music), ("effects", effects)):
        made[name] = _joined((word, made.get(name, "")))
    made["ambient"] = " ".join(filter(None, (ambient, made.get("ambient", ""))))
    if dialogue and made.get("dialogue"):
        speech = made["dialogue"].strip('"')
        made["dialogue"] = f'{dialogue} "{speech}"'
    return made


def named_size(name: str) -> tuple[int, int]:
    """Width and height of a named size, such as "720p", on the grid of two stages.

    Raises ValueError for a name that the table does not have.
    """
    width, height = _row("sizes", name).split("x")
    return int(width), int(height)


def named_seconds(name: str) -> float:
    """Seconds of a named length, such as "quick", or of one with its unit, such as "6 s".

    Raises ValueError for a name that the table does not have.
    """
    lengths = cast("Mapping[str, str]", tables()["seconds"])
    by_name = {word: number for number, word in lengths.items()}
    number = by_name.get(name, name.removesuffix("s").strip())
    try:
        return float(number)
    except ValueError:
        raise ValueError(f"there is no length {name!r}: use {', '.join(by_name)}, or such as 6 s") from None


def named_strength(name: str) -> float:
    """Strength of a LoRA by its effect: "subtle", "balanced" or "strong", the middle of its range.

    Raises ValueError for a name that the table does not have.
    """
    ranges = cast("Mapping[str, str]", tables()["strength of a LoRA"])
    by_name = {word: span.split(" to ") for span, word in ranges.items() if " to " in span}
    if name not in by_name:
        raise ValueError(f"there is no strength {name!r}: use {', '.join(by_name)}")
    low, high = map(float, by_name[name])
    return round((low + high) / 2, 2)


def _row(title: str, name: str) -> str:
    table = cast("Mapping[str, str]", tables()[title])
    if name not in table:
        raise ValueError(f"there is no {name!r} among the {title}: use {', '.join(table)}")
    return table[name]


def _joined(parts: Iterable[str]) -> str:
    return ", ".join(part.strip() for part in parts if part.strip())
