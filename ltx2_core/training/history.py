"""Losses and measurements of a training run: stored with its state, written to a log, drawn as curves."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..media.atomic import replacing


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
    """Draw the curves as the PNG ``path``, one panel each; returns False without curves or matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    if not history.curves:
        return False
    # Without pyplot, which would choose a backend for the whole process and hold figures in memory.
    figure = Figure(figsize=(7, 2.2 * len(history.curves)), layout="constrained")
    panels = figure.subplots(len(history.curves), squeeze=False)[:, 0]
    for axes, (name, points) in zip(panels, history.curves.items(), strict=True):
        steps, values = zip(*points, strict=True)
        # Markers make few points visible; many would merge into a band.
        axes.plot(steps, values, marker="." if len(points) < 40 else None)
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
        # A logarithm needs positive values.
        if name.endswith("loss") and min(values) > 0:
            axes.set_yscale("log")
    panels[-1].set_xlabel("step")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=80)
    return True
