"""The vocabulary of the synthetic world: colours, shapes, motions, kinds of audio, and pitches of shapes."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Colour = Literal["red", "green", "blue", "yellow", "magenta", "cyan", "white", "black"]
Kind = Literal["circle", "square", "triangle"]
Motion = Literal["bounce", "slide_left", "slide_right", "pulse", "still"]
Sound = Literal["knock", "glide", "swell", "silence"]

COLOURS: tuple[Colour, ...] = get_args(Colour)
KINDS: tuple[Kind, ...] = get_args(Kind)
MOTIONS: tuple[Motion, ...] = get_args(Motion)

_LEVEL = 0.85
"""Colours are corners of a cube, as far apart as eight can be; it is smaller than [-1, 1] to leave room for
ringing."""
_CORNERS: dict[Colour, tuple[int, int, int]] = {
    "red": (1, -1, -1),
    "green": (-1, 1, -1),
    "blue": (-1, -1, 1),
    "yellow": (1, 1, -1),
    "magenta": (1, -1, 1),
    "cyan": (-1, 1, 1),
    "white": (1, 1, 1),
    "black": (-1, -1, -1),
}

PITCH_HZ: dict[Kind, float] = {"square": 523.25, "circle": 783.99, "triangle": 1174.66}
"""Pitches are seven semitones apart."""

SOUND_OF: dict[Motion, Sound] = {
    "bounce": "knock",
    "slide_left": "glide",
    "slide_right": "glide",
    "pulse": "swell",
    "still": "silence",
}


def rgb(colour: Colour) -> tuple[float, float, float]:
    """Red, green and blue of a colour, in [-1, 1]."""
    r, g, b = _CORNERS[colour]
    return r * _LEVEL, g * _LEVEL, b * _LEVEL


def palette() -> Tensor:
    """RGB of all colours, (8, 3), in the order of ``COLOURS``."""
    return torch.tensor([rgb(colour) for colour in COLOURS])


def confusable(a: Colour, b: Colour) -> bool:
    """Whether colours ``a`` and ``b`` are too alike in brightness (luma) to be told apart.

    They are if they have the same red and the same green.
    """
    # Blue adds only a tenth to luma, so that two colours which differ in blue alone look the same.
    return _CORNERS[a][:2] == _CORNERS[b][:2]
