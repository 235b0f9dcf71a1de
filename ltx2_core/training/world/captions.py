"""Captions of scenes in varied wording: shape, colour, background, motion, audio, and mostly the position."""

from __future__ import annotations

import random
from collections.abc import Sequence

from .motion import Bounce, Path, Slide
from .palette import COLOURS, KINDS, Motion
from .scene import COLUMNS, HEIGHTS, Scene

# Several wordings each, so that the model learns words and not whole sentences.
_MOVES: dict[Motion, tuple[str, ...]] = {
    "bounce": ("bounces", "is bouncing", "bounces up and down", "keeps bouncing on the floor"),
    "slide_left": (
        "slides left",
        "slides to the left",
        "is sliding to the left",
        "glides from right to left",
    ),
    "slide_right": (
        "slides right",
        "slides to the right",
        "is sliding to the right",
        "glides from left to right",
    ),
    "pulse": ("pulses", "is pulsing", "grows and shrinks", "keeps growing and shrinking"),
    "still": ("stands still", "is still", "does not move", "rests motionless"),
}
_SOUNDS: dict[Motion, tuple[str, ...]] = {
    "bounce": (
        "a knock at each bounce",
        "a knock on every hit",
        "it knocks whenever it lands",
        "knocking sound",
    ),
    "slide_left": (
        "a tone glides down with it",
        "a falling tone moves to the left",
        "a tone falls as it goes",
        "gliding tone",
    ),
    "slide_right": (
        "a tone glides up with it",
        "a rising tone moves to the right",
        "a tone rises as it goes",
        "gliding tone",
    ),
    "pulse": (
        "a tone swells and fades with it",
        "a tone gets louder as it grows",
        "a tone follows its size",
        "swelling tone",
    ),
    "still": ("silence", "near silence", "there is no sound", "nothing is heard"),
}
_COMPANY = (" beside a still {}", " next to a still {}", " near a motionless {}")
_COLUMNS = ("left", "centre left", "centre", "centre right", "right")
_HEIGHTS = ("bottom", "middle", "top")
_PLACED = 0.75
"""Share of captions that name the position. Where it is left open, all tokens must agree on one by
themselves, which a tiny network fails at."""

_FORMS = (
    "{actor} {moves}{place}{company} on a {background} background",
    "{actor} {moves}{place}{company} against a {background} background",
    "on a {background} background, {actor} {moves}{place}{company}",
    "{background} background, {actor} {moves}{place}{company}",
)
_JOINTS = (", {}", "; {}", ", with sound: {}")


def caption(scene: Scene, seed: int, *, places: bool = True) -> str:
    """Caption of ``scene`` in one of some hundreds of wordings; ``seed`` and the scene select the wording.

    With ``places`` False the caption never names the position of the moving shape.
    """
    generator = random.Random(seed)
    choose = generator.choice
    actor, *others = (f"{body.colour} {body.kind}" for body in scene.bodies)
    # All draws are made whether used or not, so that a seed stands for the same wording of every scene.
    form, move, sound, joint = choose(_FORMS), choose(range(4)), choose(range(4)), choose(_JOINTS)
    company, sentence = choose(_COMPANY), choose((False, True))
    # The draw comes first, so that ``places`` does not change what a seed draws.
    placed = generator.random() < _PLACED and places
    place = _place(scene.actor.path, alone=not others) if placed else ""
    text = form.format(
        actor=f"a {actor}",
        moves=_MOVES[scene.motion][move],
        place=f" at the {place}" if place else "",
        company="".join(company.format(other) for other in others),
        background=scene.background,
    ) + joint.format(_SOUNDS[scene.motion][sound])
    return text[0].upper() + text[1:] + "." if sentence else text


def _place(path: Path, *, alone: bool) -> str:
    """Words for the position of a body, such as "top centre left"; "" if no word would be right throughout.

    They name only what does not change along ``path``: a bounce has no height and a slide no column.
    ``alone`` says that there is no second body. A slide next to a second body always runs at the bottom, so
    its position is not named.
    """
    if isinstance(path, Slide) and not alone:
        return ""
    height = "" if isinstance(path, Bounce) else _nearest(path.lift, HEIGHTS, _HEIGHTS)
    column = "" if isinstance(path, Slide) else _nearest(path.across, COLUMNS, _COLUMNS)
    return f"{height} {column}".strip()


def _nearest(value: float, values: Sequence[float], names: Sequence[str]) -> str:
    return min(zip(values, names, strict=True), key=lambda entry: abs(entry[0] - value))[1]


def plain_caption(scene: Scene) -> str:
    """The shortest caption of a scene, as a user would type it, without the position."""
    actor, *others = (f"{body.colour} {body.kind}" for body in scene.bodies)
    company = "".join(_COMPANY[0].format(other) for other in others)
    move, sound = _MOVES[scene.motion][0], _SOUNDS[scene.motion][0]
    return f"a {actor} {move}{company} on a {scene.background} background, {sound}"


def vocabulary() -> tuple[str, ...]:
    """All words that captions use, lower case and sorted, from which a tokenizer is built.

    The words of positions ("top", "left") are left out, because any tokenizer has them.
    """
    texts = [*_FORMS, *_COMPANY, *_JOINTS, *COLOURS, *KINDS]
    texts += [phrase for table in (_MOVES, _SOUNDS) for phrases in table.values() for phrase in phrases]
    words = " ".join(texts)
    # Slots and punctuation are no words; what fills the slots is in the tables.
    for slot in ("{actor}", "{moves}", "{place}", "{company}", "{background}", "{}", ",", ";", ":"):
        words = words.replace(slot, " ")
    return tuple(sorted({"a", *words.split()}))
