"""Rows of a benchmark, each measured by itself and written at once: JSON, Markdown and a chart."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

Row = dict[str, Any]


class Rows:
    """Measures rows within ``budget_s`` seconds; a row that fails or is too late has the reason as result.

    Writes ``folder``/``name``.json and .md; ``about`` are facts for their header.
    """

    def __init__(self, folder: Path, name: str, budget_s: float, about: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{name}.json"
        self.rows: list[Row] = []
        self._start, self._budget = time.perf_counter(), budget_s
        self.about = {
            "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
            "machine": platform.machine(),
            "torch": torch.__version__,
            **about,
        }

    @property
    def left(self) -> float:
        return self._budget - (time.perf_counter() - self._start)

    def measure(self, name: str, run: Callable[[], Row], *, needs_s: float = 5.0) -> Row:
        """Measure and write ``run()`` as the row ``name``; skipped if fewer seconds are left."""
        began = time.perf_counter()
        if self.left < needs_s:
            row: Row = {"not measured": f"{self.left:.0f} s were left of {self._budget:.0f}"}
        else:
            try:
                row = run()
            except Exception as error:  # noqa: BLE001 a failing row must not stop the others
                first = str(error).splitlines()[0] if str(error) else ""
                row = {"not measured": f"{type(error).__name__}: {first[:160]}"}
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.rows.append({"row": name, **row, "took_s": round(time.perf_counter() - began, 1)})
        print(self._line(self.rows[-1]), flush=True)
        self.write()
        return row

    def write(self) -> None:
        self.path.write_text(json.dumps({**self.about, "rows": self.rows}, indent=1) + "\n")
        facts = ", ".join(f"{key} {value}" for key, value in self.about.items())
        lines = [facts, "", "| row | result |", "|---|---|"]
        lines += [f"| {row['row']} | {self._result(row)} |" for row in self.rows]
        self.path.with_suffix(".md").write_text("\n".join(lines) + "\n")

    def draw(self, value: str, title: str) -> None:
        """Draw the rows that have ``value`` as a bar chart; does nothing without matplotlib."""
        drawn = [row for row in self.rows if isinstance(row.get(value), (int, float))]
        try:
            import matplotlib

            matplotlib.use("Agg")
            from matplotlib import pyplot
        except ImportError:
            return
        if not drawn:
            return
        figure, axes = pyplot.subplots(figsize=(9, 0.35 * len(drawn) + 1.2), layout="constrained")
        bars = axes.barh([row["row"] for row in drawn], [row[value] for row in drawn], color="#2563eb")
        axes.bar_label(bars, fmt="%.3g", padding=3)
        axes.invert_yaxis()
        axes.set_title(title)
        figure.savefig(self.path.with_suffix(".png"), dpi=110)
        pyplot.close(figure)

    def _line(self, row: Row) -> str:
        return f"{row['row']}: {self._result(row)}"

    def _result(self, row: Row) -> str:
        return ", ".join(
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in row.items()
            if key not in ("row", "took_s")
        )
