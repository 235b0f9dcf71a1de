"""``ltx2 long``: a process that is killed and started again leaves the identical file, byte for byte."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest


def command(tiny_set, folder: Path, out: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "ltx2_core.cli.main", "long"),
        *("--prompts", "0-3: a red ball\n3: a blue square", "--seconds", "7", "--fps", "8"),
        *("--width", "64", "--height", "64", "--window-frames", "25", "--overlap-frames", "16"),
        *("--steps", "1", "--cfg", "1", "--seed", "5", "--adain", "0.5"),
        *("--checkpoint", str(tiny_set.checkpoint), "--text-encoder", str(tiny_set.text_encoder)),
        *("--state", str(folder), "-o", str(out)),
    ]


@pytest.mark.slow
def test_a_killed_process_ends_with_the_identical_file(tiny_set, tmp_path):
    whole, cut = tmp_path / "whole.mp4", tmp_path / "cut.mp4"
    subprocess.run(command(tiny_set, tmp_path / "whole", whole), check=True, capture_output=True, timeout=900)
    first = subprocess.Popen(
        command(tiny_set, tmp_path / "cut", cut), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    end, done = time.monotonic() + 900, tmp_path / "cut" / "window_00000.safetensors"
    while not done.exists() and time.monotonic() < end:
        time.sleep(0.01)
    first.kill()
    first.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cut").glob("window_*.safetensors")}
    assert 1 <= len(kept) < 3
    assert not cut.exists()
    again = subprocess.run(
        command(tiny_set, tmp_path / "cut", cut), check=True, capture_output=True, text=True, timeout=900
    )
    assert "window 3 of 3" in again.stderr
    for name, at in kept.items():
        assert (tmp_path / "cut" / name).stat().st_mtime_ns == at, "a finished window is not made again"
    assert cut.read_bytes() == whole.read_bytes()
