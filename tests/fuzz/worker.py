"""A process that reads damaged files of one kind, and prints a JSON line for each that is not refused well.

``python worker.py KIND FIRST COUNT FOLDER``, with "every kind" for all of them: a file is refused well if
reading it ends, within ``SECONDS`` of processor time and ``EXTRA_MB`` of memory beyond the file, without an
error or with a ValueError or a FileNotFoundError of one line.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import re
import shutil
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from kinds import KINDS, pipeline

SECONDS = 10
EXTRA_MB = 64
EVERY = "every kind"
MEMORY = "took"
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Hangs(BaseException):
    """Reading a file took longer than ``SECONDS``; no ``except Exception`` catches it."""


def _hangs(*_: Any) -> None:
    raise Hangs


def memory_mb(field: str) -> float:
    """``VmRSS`` or ``VmHWM``, the peak since it was reset, of this process."""
    return int(re.search(rf"{field}:\s+(\d+)", STATUS.read_text())[1]) / 1024  # type: ignore[index]


def main(name: str, first: int, count: int, root: Path) -> None:
    torch.set_num_threads(1)
    kind = KINDS[name]
    signal.signal(signal.SIGVTALRM, _hangs)
    good = kind.make(root / "good")
    # Proves that the original is valid, and imports what reading needs.
    kind.use(good)
    for number in range(first, first + count):
        rng = random.Random(f"{name} {number}")
        path = root / f"damaged-{number}{good.suffix}"
        (shutil.copytree if good.is_dir() else shutil.copy)(good, path)
        inner = rng.choice(list(kind.damage))
        victim = path / inner if inner else path
        content = kind.damage[inner](victim.read_bytes(), rng)
        victim.write_bytes(content)
        size_mb = len(content) / 2**20
        problem = read(kind.use, path, size_mb)
        if problem and problem.startswith(MEMORY):
            # The first use of a part of a library imports it, which no second one does.
            problem = read(kind.use, path, size_mb)
        if problem:
            print(json.dumps({"kind": name, "case": number, "file": inner, "problem": problem}), flush=True)
        (shutil.rmtree if path.is_dir() else Path.unlink)(path)
        path.with_suffix(".mp4").unlink(missing_ok=True)
    print(json.dumps({"kind": name, "done": count}), flush=True)


def of_every_kind(first: int, count: int, root: Path) -> None:
    """``main`` for each kind, in forks of one process that has imported what they need."""
    from transformers import Gemma3TextModel, PreTrainedTokenizerFast  # noqa: F401 as the text encoder does

    torch.set_num_threads(1)
    pipeline()
    for number, name in enumerate(KINDS):
        folder = root / str(number)
        folder.mkdir()
        process = multiprocessing.get_context("fork").Process(target=main, args=(name, first, count, folder))
        process.start()
        process.join()


def read(use: Any, path: Path, size_mb: float) -> str | None:
    """What is wrong with how ``path`` was read, or None."""
    RESET.write_text("5")
    before = memory_mb("VmRSS")
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    problem = None
    try:
        use(path)
    except (ValueError, FileNotFoundError) as error:
        if "\n" in str(error).strip():
            problem = f"several lines: {error}"
    except Hangs:
        problem = "hangs: " + traceback.format_exc()[-1500:]
    except BaseException:  # noqa: BLE001 whatever else comes out is what is looked for
        problem = traceback.format_exc()[-2000:]
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    extra = memory_mb("VmHWM") - before - 3 * size_mb
    if problem is None and extra > EXTRA_MB:
        problem = f"{MEMORY} {extra:.0f} MB"
    return problem


if __name__ == "__main__":
    chosen, numbers, below = sys.argv[1], map(int, sys.argv[2:4]), Path(sys.argv[4])
    if chosen == EVERY:
        of_every_kind(*numbers, below)
    else:
        main(chosen, *numbers, below)
