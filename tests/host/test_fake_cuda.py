"""On a GPU, a step of the host with our MODEL waits for nothing: masks, guides, references, batches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
KINDS = ("plain", "mask", "guide", "mask and reference", "plain tiles", "mask and guide in tiles")
CALLS = [f"{kind}, {n} a call" for n in (1, 2) for kind in KINDS]


@pytest.fixture(scope="module")
def report(comfy_dir: Path) -> dict[str, dict[str, object]]:
    run = subprocess.run(
        [sys.executable, str(HERE / "fake_cuda_waits.py"), str(HERE.parents[1])],
        cwd=comfy_dir,
        # Interpreted kernels would take minutes; without the interpreter they fail their trial.
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("call", CALLS)
def test_a_step_after_the_first_waits_for_nothing(report, call):
    assert report[call] == {"waits": {}, "same": True}
