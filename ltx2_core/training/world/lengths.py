"""Captions that say how long a clip lasts, in words: "..., for two and a half seconds"."""

from __future__ import annotations

import random

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_HALVES = 5
"""Whole seconds up to which captions also name the half second after them."""
_JOINTS = (", for {}", ", {} long", "; it lasts {}")

UNSAID_S = 2.0
"""Seconds of a clip whose caption names no length."""

LENGTHS_S = (*(float(n) for n in range(1, len(NUMBERS) + 1)), *(n + 0.5 for n in range(1, _HALVES + 1)))
"""All lengths that captions name, in seconds."""


def spoken(seconds: float) -> str:
    """The words for one of ``LENGTHS_S``, such as "one second" or "two and a half seconds"."""
    assert seconds in LENGTHS_S, seconds
    whole = int(seconds)
    half = " and a half" if seconds > whole else ""
    return f"{NUMBERS[whole - 1]}{half} second{'' if seconds == 1 else 's'}"


def with_length(caption: str, seconds: float, seed: int) -> str:
    """Add the length ``seconds``, one of ``LENGTHS_S``, to a caption, in a wording that ``seed`` draws."""
    text = random.Random(f"length {seed}").choice(_JOINTS).format(spoken(seconds))
    return f"{caption[:-1]}{text}." if caption.endswith(".") else caption + text


def length_words() -> tuple[str, ...]:
    """All words that name lengths in captions."""
    words = " ".join([*NUMBERS, *_JOINTS, "second seconds and a half"])
    for mark in ("{}", ",", ";"):
        words = words.replace(mark, " ")
    return tuple(sorted(set(words.split())))
