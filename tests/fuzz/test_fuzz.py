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
from typing import Any

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


def lines_of(kind: str, first: int, count: int, folder: Path) -> list[dict[str, Any]]:
    """What a process that reads damaged files prints; what it printed beside that closes the list."""
    command = [sys.executable, str(HERE / "worker.py"), kind, str(first), str(count), str(folder)]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return [*lines, {"ended": f"the process ended with {done.returncode}: {done.stderr[-2000:]}"}]


def findings(kind: str, count: int, lines: list[dict[str, Any]]) -> list[str]:
    """The files of a kind that were not refused well."""
    own = [line for line in lines if line.get("kind") == kind]
    if not own or own[-1] != {"kind": kind, "done": count}:
        return [lines[-1]["ended"]]
    return [f"{line['kind']} {line['case']} {line['file']}: {line['problem']}" for line in own[:-1]]


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> list[dict[str, Any]]:
    """The lines of one process for all kinds: a process for each would mostly import."""
    return lines_of("every kind", 0, FEW, tmp_path_factory.mktemp("few"))


@needs_proc
@pytest.mark.xdist_group("damaged files")
@pytest.mark.parametrize("kind", CASES)
def test_a_few_damaged_files_are_refused_well(kind, few):
    assert findings(kind, FEW, few) == []


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("kind", CASES)
def test_damaged_files_are_refused_well(kind, tmp_path):
    count = CASES[kind] - FEW
    assert findings(kind, count, lines_of(kind, FEW, count, tmp_path)) == []


def test_there_are_a_thousand_files_of_every_kind():
    tree = ast.parse((HERE / "kinds.py").read_text())
    tables = [node for node in tree.body if isinstance(node, ast.AnnAssign)]
    kinds = next(ast.unparse(t.value) for t in tables if ast.unparse(t.target) == "KINDS")
    assert all(f"'{kind}'" in kinds for kind in CASES)
    assert sum(CASES.values()) >= 1000
