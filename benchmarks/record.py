"""Runs a benchmark and writes what it prints, with command, date and machine, where the docs include it.

    python benchmarks/record.py decode_memory --frames 25 49 97
    python benchmarks/record.py guidance --cache --as step_caches

The file is ``benchmarks/results/NAME.md``; ``--as`` names another one. Nothing is written where the benchmark
cannot be run; one that misses its own limit is recorded, and its exit status is passed on.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"


def main(arguments: list[str]) -> int:
    if not arguments or not (HERE / f"{arguments[0]}.py").is_file():
        print(__doc__, file=sys.stderr)
        return 2
    name, *options = arguments
    target = name
    if "--as" in options:
        at = options.index("--as")
        target = options[at + 1]
        del options[at : at + 2]
    ran = subprocess.run(
        [sys.executable, str(HERE / f"{name}.py"), *options], stdout=subprocess.PIPE, text=True, check=False
    )
    if not ran.stdout.strip():
        return ran.returncode or 1
    RESULTS.mkdir(exist_ok=True)
    command = " ".join(["python", f"benchmarks/{name}.py", *options])
    text = f"{about(command)}\n\n{as_markdown(ran.stdout)}\n"
    (RESULTS / f"{target}.md").write_text(text, encoding="utf-8")
    print(text)
    return ran.returncode


def about(command: str) -> str:
    """Where and when the figures are from."""
    date = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {version('torch')}"
    return f"`{command}`, {date}, {machine}:"


def as_markdown(output: str) -> str:
    """Tables as they are, with an empty line around each; anything else as plain text in a fence."""
    blocks: list[tuple[bool, list[str]]] = []
    for line in output.strip().splitlines():
        table = line.startswith("|")
        if not blocks or blocks[-1][0] != table:
            blocks.append((table, []))
        blocks[-1][1].append(line.rstrip())
    written = []
    for table, lines in blocks:
        text = "\n".join(lines).strip("\n")
        if text:
            written.append(text if table else f"```text\n{text}\n```")
    return "\n\n".join(written)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
