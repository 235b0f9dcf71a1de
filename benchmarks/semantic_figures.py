"""Figures of the semantic table: scores of measured clips, and the table as Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from ltx2_core.training.world import FPS, Agreement, Clip, Measured, agreement, event_distance


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One row of the table; ``least`` or ``most`` is the target, in the unit of ``value``."""

    part: str
    what: str
    value: float
    chance: float | None = None
    least: float | None = None
    most: float | None = None
    unit: str = "%"

    @property
    def met(self) -> bool | None:
        if self.least is not None:
            return self.value >= self.least
        return None if self.most is None else self.value <= self.most


def agreements(measured: Sequence[Measured], clips: Sequence[Clip]) -> dict[str, float]:
    """Per cent of clips in which each word of the prompt is right."""
    rows = [agreement(m, clip.truth) for m, clip in zip(measured, clips, strict=True)]
    return {word: percent([getattr(row, word) for row in rows]) for word in Agreement._fields}


def score(measured: Sequence[Measured], clips: Sequence[Clip]) -> float:
    """Mean per cent of right words: colour, background, motion, shape and kind of sound."""
    rates = agreements(measured, clips)
    return mean([rates[word] for word in ("colour", "background", "motion", "kind", "sound")])


def conditioned_events(
    part: str, what: str, found: Sequence[Sequence[float]], clips: Sequence[Clip]
) -> Figure:
    """Median distance in frames of found events to the clips' contacts; chance: to those of other clips."""
    truth = [clip.truth.contacts_s for clip in clips]
    distances = [event_distance(a, b) * FPS for a, b in zip(found, truth, strict=True)]
    shuffled = [event_distance(a, b) * FPS for a, b in zip(found, [*truth[1:], truth[0]], strict=True)]
    return frames_apart(part, what, distances, shuffled)


def frames_apart(part: str, what: str, distances: Sequence[float], shuffled: Sequence[float]) -> Figure:
    """A figure of the median distance in frames, with that of shuffled clips as chance."""
    value = median(distances) if distances else math.inf
    chance = median(shuffled) if shuffled else math.inf
    return Figure(part=part, what=f"{what}, median", value=value, chance=chance, most=2, unit="frames")


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def percent(hits: Sequence[float]) -> float:
    return 100 * mean([float(hit) for hit in hits])


def finite(row: dict[str, Any]) -> dict[str, Any]:
    """Replace infinity, the distance to a missing knock, by None, which JSON has."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


def table(figures: Sequence[Figure], skipped: dict[str, str]) -> str:
    """The figures as Markdown."""
    lines = ["| part | what | value | chance | aim | |", "|---|---|---|---|---|---|"]
    for f in figures:
        aim = f"≥ {f.least:g}" if f.least is not None else "" if f.most is None else f"≤ {f.most:g}"
        chance = "" if f.chance is None else f"{f.chance:.3g}"
        verdict = "" if f.met is None else "yes" if f.met else "no"
        lines.append(f"| {f.part} | {f.what} | {f.value:.3g} {f.unit} | {chance} | {aim} | {verdict} |")
    lines += [f"| {name} | skipped: no {reason} | | | | |" for name, reason in skipped.items()]
    return "\n".join(lines)
