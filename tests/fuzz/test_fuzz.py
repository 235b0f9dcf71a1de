"""Damaged files of every kind: no traceback, no hang, no memory beyond the file. A case is repeated by

``python tests/fuzz/worker.py KIND NUMBER 1 FOLDER``.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

CASES = {
    "checkpoint": 120,
    "lora": 100,
    "upscaler": 60,
    "text encoder": 100,
    "sharded text encoder": 40,
    "diffusers folder": 80,
    "saved latents": 80,
    "state folder": 80,
    "tags of an MP4": 60,
    "prompts": 80,
    "MP4": 60,
    "PNG": 30,
    "JPEG": 30,
    "WebP": 30,
    "TIFF": 30,
    "WAV": 40,
}
"""Kind -> number of damaged files of the whole run."""
FEW = 4
"""Number of damaged files of each kind in the run by default."""

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peaks of memory are read from /proc, which Linux has"
)


def findings(kind: str, first: int, count: int, folder: Path) -> list[str]:
    """The files of a kind that were not refused well."""
    command = [sys.executable, str(HERE / "worker.py"), kind, str(first), str(count), str(folder)]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines or lines[-1] != {"done": count}:
        return [f"the process ended with {done.returncode}: {done.stderr[-2000:]}"]
    return [f"{line['kind']} {line['case']} {line['file']}: {line['problem']}" for line in lines[:-1]]


@needs_proc
@pytest.mark.parametrize("kind", CASES)
def test_a_few_damaged_files_are_refused_well(kind, tmp_path):
    assert findings(kind, 0, FEW, tmp_path) == []


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("kind", CASES)
def test_damaged_files_are_refused_well(kind, tmp_path):
    assert findings(kind, FEW, CASES[kind] - FEW, tmp_path) == []


def test_there_are_a_thousand_files_of_every_kind():
    tree = ast.parse((HERE / "kinds.py").read_text())
    tables = [node for node in tree.body if isinstance(node, ast.AnnAssign)]
    kinds = next(ast.unparse(t.value) for t in tables if ast.unparse(t.target) == "KINDS")
    assert all(f"'{kind}'" in kinds for kind in CASES)
    assert sum(CASES.values()) >= 1000
