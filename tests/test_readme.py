"""The README names every source file, and nothing that is not there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("ltx2_core", "nodes", "web", "benchmarks", "tests")


def test_every_source_file_has_its_line() -> None:
    named = set(re.findall(r"^\| `([^`]+\.(?:py|js))` \|", (ROOT / "README.md").read_text(), re.MULTILINE))
    present = {
        path.relative_to(ROOT).as_posix()
        for folder in FOLDERS
        for pattern in ("*.py", "*.js")
        for path in (ROOT / folder).rglob(pattern)
    }
    assert named - {"__init__.py"} == present
