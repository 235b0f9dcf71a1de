"""The words of the world: its colours, shapes and motions, and the pitch of each shape."""

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

# Corners of a cube inside [-1, 1]^3: as far apart as eight colours can be, with room for ringing.
_LEVEL = 0.85
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

# Seven semitones apart.
PITCH_HZ: dict[Kind, float] = {"square": 523.25, "circle": 783.99, "triangle": 1174.66}

SOUND_OF: dict[Motion, Sound] = {
    "bounce": "knock",
    "slide_left": "glide",
    "slide_right": "glide",
    "pulse": "swell",
    "still": "silence",
}


def rgb(colour: Colour) -> tuple[float, float, float]:
    """The colour's red, green and blue in [-1, 1]."""
    r, g, b = _CORNERS[colour]
    return r * _LEVEL, g * _LEVEL, b * _LEVEL


def palette() -> Tensor:
    """All colours, (8, 3) in the order of ``COLOURS``."""
    return torch.tensor([rgb(colour) for colour in COLOURS])


def confusable(a: Colour, b: Colour) -> bool:
    """Whether an eye (or an edge filter on luma) could miss ``a`` on ``b``: equal red and green."""
    return _CORNERS[a][:2] == _CORNERS[b][:2]
