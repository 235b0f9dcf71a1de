"""Rows of a benchmark: each measured by itself, written as it comes, as JSON, Markdown and a picture."""

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
    """Measures rows until ``budget_s`` is over; a row that fails or comes too late says so in its place."""

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
        """``run()`` as the row ``name``; an empty row if there is no time for ``needs_s`` or it fails."""
        began = time.perf_counter()
        if self.left < needs_s:
            row: Row = {"not measured": f"{self.left:.0f} s were left of {self._budget:.0f}"}
        else:
            try:
                row = run()
            except Exception as error:  # one row must not cost the others
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
        """Bars of the rows that have ``value``; where matplotlib is not installed there is no picture."""
        shown = [row for row in self.rows if isinstance(row.get(value), (int, float))]
        try:
            import matplotlib

            matplotlib.use("Agg")
            from matplotlib import pyplot
        except ImportError:
            return
        if not shown:
            return
        figure, axes = pyplot.subplots(figsize=(9, 0.35 * len(shown) + 1.2), layout="constrained")
        bars = axes.barh([row["row"] for row in shown], [row[value] for row in shown], color="#2563eb")
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
