"""Losses and measurements of a training run: stored with its state, written to a log, drawn as curves."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageDraw

from ..media.atomic import replacing

_WIDTH, _HEIGHT, _LEFT = 700, 200, 72
_INK, _GRID, _LINE = (39, 39, 42), (212, 212, 216), (37, 99, 235)


@dataclass(kw_only=True)
class History:
    """Curves of a training run: ``curves`` maps a name, such as "loss", to (step, value) pairs."""

    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Append one point at ``step`` to each named curve."""
        for name, value in values.items():
            self.curves.setdefault(name, []).append((step, value))


def write_line(path: Path, step: int, seconds: float, values: Mapping[str, float]) -> None:
    """Append one line to the text log ``path``.

    It has the time of day, ``step``, ``seconds`` since the start, and ``values`` by name.
    """
    figures = " ".join(f"{name} {value:.5g}" for name, value in values.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(f"{time.strftime('%H:%M:%S')} step {step} {seconds:.0f}s {figures}\n")


def plot(history: History, path: Path) -> bool:
    """Draw the curves as the PNG ``path``, one panel each; returns False without curves.

    Curves of losses have a logarithmic axis if all values are positive.
    """
    if not history.curves:
        return False
    image = Image.new("RGB", (_WIDTH, _HEIGHT * len(history.curves)), "white")
    draw = ImageDraw.Draw(image)
    for number, (name, points) in enumerate(history.curves.items()):
        _panel(draw, number * _HEIGHT, name, points)
    with replacing(path) as temporary:
        image.save(temporary, format="PNG")
    return True


def _panel(draw: ImageDraw.ImageDraw, top: int, name: str, points: Sequence[tuple[int, float]]) -> None:
    """Draw one curve below the row of pixels ``top``; values that are not finite are left out."""
    left, right, high, low = _LEFT, _WIDTH - 12, top + 24, top + _HEIGHT - 24
    drawn = [(step, value) for step, value in points if math.isfinite(value)]
    draw.text((left, top + 6), name, fill=_INK)
    draw.rectangle((left, high, right, low), outline=_GRID)
    if not drawn:
        return
    steps, values = zip(*drawn, strict=True)
    first, last, least, most = min(steps), max(steps), min(values), max(values)
    # A logarithm needs positive values.
    scale = math.log if name.endswith("loss") and least > 0 else float
    bottom, height = scale(least), scale(most) - scale(least)
    places = [
        (
            left + (right - left) * (step - first) / max(1, last - first),
            # A curve of one value lies in the middle.
            low - (low - high) * ((scale(value) - bottom) / height if height > 0 else 0.5),
        )
        for step, value in drawn
    ]
    draw.line(places, fill=_LINE, width=2)
    # Dots make few points visible; many would merge into a band.
    for x, y in places if len(places) < 40 else ():
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=_LINE)
    draw.text((6, high), f"{most:.4g}", fill=_INK)
    draw.text((6, low - 10), f"{least:.4g}", fill=_INK)
    draw.text((left, low + 6), str(first), fill=_INK)
    draw.text((right - 8 * len(str(last)), low + 6), str(last), fill=_INK)
