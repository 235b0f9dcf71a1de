"""How well a measured clip agrees with what was asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from .clip import Truth
from .measure import Measured


class Agreement(NamedTuple):
    """Which words of the prompt came true; ``colour`` and ``kind`` are the actor's."""

    background: bool
    colour: bool
    kind: bool
    motion: bool
    sound: bool
    company: bool  # the second body, or its absence


def agreement(measured: Measured, truth: Truth) -> Agreement:
    """Word by word. Where two bodies are still, either may be the actor."""
    asked = list(zip(truth.colours, truth.kinds, strict=True))
    seen = list(zip(measured.colours, measured.kinds, strict=True))
    if truth.motion == "still" and len(seen) > 1 and seen[0][0] != asked[0][0]:
        seen.reverse()
    colour, kind = seen[0] if seen else (None, None)
    return Agreement(
        background=measured.background == truth.background,
        colour=colour == asked[0][0],
        kind=kind == asked[0][1],
        motion=measured.motion == truth.motion,
        sound=measured.heard is not None and measured.heard.sound == truth.sound,
        company=[c for c, _ in seen[1:]] == [c for c, _ in asked[1:]],
    )


def event_f1(
    found_s: Sequence[float],
    true_s: Sequence[float],
    *,
    tolerance_s: float,
    seconds: float,
    margin_s: float = 0.0,
) -> float:
    """F1 of events in seconds, each true one matched by at most one found within ``tolerance_s``; 1 if none.

    Events within ``margin_s`` of either end of the clip need not be found, and may be.
    """
    remaining = list(found_s)
    hits = misses = 0
    for at in sorted(true_s):
        near = min(remaining, key=lambda other: abs(other - at), default=math.inf)
        hit = abs(near - at) <= tolerance_s
        if hit:
            remaining.remove(near)
        if margin_s <= at <= seconds - margin_s:
            hits, misses = hits + hit, misses + (not hit)
    extra = sum(margin_s <= at <= seconds - margin_s for at in remaining)
    return 1.0 if not hits + misses + extra else 2 * hits / (2 * hits + misses + extra)


def event_distance(a_s: Sequence[float], b_s: Sequence[float]) -> float:
    """Median over all events of both lists of the distance to the other's nearest; inf if one is empty."""
    if not a_s or not b_s:
        return 0.0 if not a_s and not b_s else math.inf
    gaps = [min(abs(x - y) for y in other) for own, other in ((a_s, b_s), (b_s, a_s)) for x in own]
    return median(gaps)


def contact_onset_distance(measured: Measured) -> float:
    """Median distance between a clip's contacts and knocks, in frames; inf if it shows or sounds none."""
    if not measured.contacts_s or not measured.onsets_s:
        return math.inf
    return event_distance(measured.contacts_s, measured.onsets_s) * measured.fps


def semitones(a_hz: float, b_hz: float) -> float:
    """Distance of two pitches; NaN if either is."""
    return abs(12 * math.log2(a_hz / b_hz)) if a_hz > 0 and b_hz > 0 else math.nan
