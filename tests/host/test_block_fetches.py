"""Where the host streams weights, each block is fetched just before it runs, and nothing stays fetched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ALL = "f0 r0 f1 r1 f2 r2 f3 r3 f4 r4 f5 r5"
CALLS = {
    "a step": ALL,
    "the next step": ALL,
    "in two tiles": f"{ALL} {ALL}",
    "two passes, of which one is saved": ALL,
    "the pass that resumes": "f4 r4 f5 r5",
}
"""A call -> fetches and runs of blocks in order."""


@pytest.fixture(scope="module")
def report(comfy_dir: Path) -> dict[str, dict[str, object]] | None:
    run = subprocess.run(
        [sys.executable, str(HERE / "block_fetches.py"), str(HERE.parents[1])],
        cwd=comfy_dir,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("call", CALLS)
def test_a_block_is_fetched_before_it_runs_and_released_after_it(report, call):
    if report is None:
        pytest.skip("this host does not stream weights")
    assert report[call] == {"events": CALLS[call], "held": []}
