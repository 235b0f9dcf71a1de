"""Scores of a measured clip against the true content of the scene that its prompt describes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from .clip import Truth
from .measure import Measured


class Agreement(NamedTuple):
    """Which words of the prompt are right in the clip: True where the clip has what the word says.

    ``colour`` and ``kind`` (shape) are those of the actor, the body that moves. ``company`` is the colour of
    the second body, or its absence.
    """

    background: bool
    colour: bool
    kind: bool
    motion: bool
    sound: bool
    company: bool
    """The second body has its colour, or is absent as in the prompt."""


def agreement(measured: Measured, truth: Truth) -> Agreement:
    """Compare what was measured in a clip with ``truth``, what its prompt says, word by word.

    If nothing moves by the prompt, the order of two measured bodies does not count.
    """
    expected = list(zip(truth.colours, truth.kinds, strict=True))
    found = list(zip(measured.colours, measured.kinds, strict=True))
    # Without motion nothing in the frames tells the actor from its company.
    if truth.motion == "still" and len(found) > 1 and found[0][0] != expected[0][0]:
        found.reverse()
    colour, kind = found[0] if found else (None, None)
    return Agreement(
        background=measured.background == truth.background,
        colour=colour == expected[0][0],
        kind=kind == expected[0][1],
        motion=measured.motion == truth.motion,
        sound=measured.audio is not None and measured.audio.sound == truth.sound,
        company=[c for c, _ in found[1:]] == [c for c, _ in expected[1:]],
    )


def event_f1(
    found_s: Sequence[float],
    true_s: Sequence[float],
    *,
    tolerance_s: float,
    seconds: float,
    margin_s: float = 0.0,
) -> float:
    """F1 score of events that were found against true ones, both as times in seconds.

    A true event is a hit if an unmatched found one lies within ``tolerance_s``. Events within ``margin_s`` of
    the ends of the clip, which is ``seconds`` long, count neither as hits nor as errors. Without any event,
    found or true, the score is 1.
    """
    remaining = list(found_s)
    hits = misses = 0
    for at in sorted(true_s):
        near = min(remaining, key=lambda other: abs(other - at), default=math.inf)
        hit = abs(near - at) <= tolerance_s
        if hit:
            # A found event counts for one true event only.
            remaining.remove(near)
        # Matched before it is left out: an event just outside the margin may explain one just inside.
        if margin_s <= at <= seconds - margin_s:
            hits, misses = hits + hit, misses + (not hit)
    extra = sum(margin_s <= at <= seconds - margin_s for at in remaining)
    return 1.0 if not hits + misses + extra else 2 * hits / (2 * hits + misses + extra)


def event_distance(a_s: Sequence[float], b_s: Sequence[float]) -> float:
    """Median distance in seconds from each event, of either list, to the nearest event of the other list.

    Events are times in seconds. The distance is inf if one of the lists is empty, and 0 if both are.
    """
    if not a_s or not b_s:
        return 0.0 if not a_s and not b_s else math.inf
    gaps = [min(abs(x - y) for y in other) for own, other in ((a_s, b_s), (b_s, a_s)) for x in own]
    return median(gaps)


def contact_onset_distance(measured: Measured) -> float:
    """Median distance in frames between contacts with the floor and knocks; inf if either are missing."""
    if not measured.contacts_s or not measured.onsets_s:
        return math.inf
    return event_distance(measured.contacts_s, measured.onsets_s) * measured.fps


def semitones(a_hz: float, b_hz: float) -> float:
    """Distance of two pitches in semitones; NaN if either is NaN."""
    return abs(12 * math.log2(a_hz / b_hz)) if a_hz > 0 and b_hz > 0 else math.nan
