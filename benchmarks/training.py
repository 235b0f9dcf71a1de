"""LoRAs trained from mp4 and txt files by the documented commands, judged by the world's truth.

    python benchmarks/training.py --dir training_work

Each row writes clips to disk, encodes them with ``ltx2 dataset``, trains with ``ltx2 train lora`` on the
embedded set, and measures what the LoRA generates for held-out prompts. Everything is held in the folder, so
that an interrupted call continues; a row that was measured is not measured again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from training_rows import ROWS, Figure
from training_work import Work


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dir", type=Path, default=Path("training_work"), help="folder of clips and runs")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    parser.add_argument("--clips", type=int, default=32, help="held-out prompts (default 32)")
    parser.add_argument("--steps", type=int, default=12, help="sampling steps of each (default 12)")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the training steps")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--no-run", action="store_true", help="print the rows that were measured before")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    work = Work(
        options.dir.resolve(),
        clips=options.clips,
        steps=options.steps,
        threads=options.threads,
        scale=options.scale,
    )
    results = options.dir / "rows"
    results.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        path = results / f"{name}.json"
        if path.is_file() or options.no_run:
            continue
        start = time.monotonic()
        try:
            figures = [asdict(figure) for figure in ROWS[name][1](work)]
        except Exception as error:  # noqa: BLE001 a row that fails must not stop the others
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
            continue
        path.write_text(json.dumps({"figures": figures, "minutes": (time.monotonic() - start) / 60}))
        print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr)
    lines, met = _table(options.only, results)
    print("\n".join(lines))
    return 0 if met else 1


def _table(names: list[str], results: Path) -> tuple[list[str], bool]:
    """The rows as Markdown, and whether all aims are met."""
    lines, met = ["| what | measured | without LoRA | aim | met |", "|---|---|---|---|---|"], True
    for name in names:
        path = results / f"{name}.json"
        if not path.is_file():
            lines.append(f"| {ROWS[name][0]} | not measured | | | |")
            continue
        for values in json.loads(path.read_text())["figures"]:
            figure = Figure(**values)
            aim = f"≥ {figure.least:g}" if figure.least is not None else ""
            aim = f"≤ {figure.most:g}" if figure.most is not None else aim
            base = "" if figure.base is None else f"{figure.base:.3g}"
            verdict = "" if figure.met is None else "yes" if figure.met else "no"
            met = met and figure.met is not False
            what = f"{ROWS[name][0]}: {figure.what}"
            lines.append(f"| {what} | {figure.value:.3g} {figure.unit} | {base} | {aim} | {verdict} |")
    return lines, met


if __name__ == "__main__":
    sys.exit(main())
