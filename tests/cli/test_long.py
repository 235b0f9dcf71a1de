"""``ltx2 long``: a process that is killed and started again leaves the identical file, byte for byte."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from kill_points import ltx2, run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork and no SIGKILL")


def command(tiny_set, folder: Path, out: Path) -> list[str]:
    return [
        *("long", "--prompts", "0-3: a red ball\n3: a blue square", "--seconds", "7", "--fps", "8"),
        *("--width", "64", "--height", "64", "--window-frames", "25", "--overlap-frames", "16"),
        *("--steps", "1", "--cfg", "1", "--seed", "5", "--adain", "0.5"),
        *("--checkpoint", str(tiny_set.checkpoint), "--text-encoder", str(tiny_set.text_encoder)),
        *("--state", str(folder), "-o", str(out)),
    ]


@pytest.mark.slow
def test_a_killed_process_ends_with_the_identical_file(tiny_set, tmp_path):
    whole, cut, state = tmp_path / "whole.mp4", tmp_path / "cut.mp4", tmp_path / "cut"
    undisturbed = run(ltx2, *command(tiny_set, tmp_path / "whole", whole), folder=tmp_path / "a")
    assert undisturbed.code == 0, undisturbed.output
    writes = [number for number, event in enumerate(undisturbed.events) if event == "write"]
    # In the middle of writing the second window.
    killed = run(ltx2, *command(tiny_set, state, cut), folder=tmp_path / "b", kill_at=writes[1])
    assert killed.code == -signal.SIGKILL, killed.output
    kept = {path.name: path.stat().st_mtime_ns for path in state.glob("window_*.safetensors")}
    assert [*kept] == ["window_00000.safetensors"]
    assert not cut.exists()
    again = run(ltx2, *command(tiny_set, state, cut), folder=tmp_path / "c")
    assert again.code == 0, again.output
    assert "window 3 of 3" in again.output
    for name, at in kept.items():
        assert (state / name).stat().st_mtime_ns == at, "a finished window is not made again"
    assert cut.read_bytes() == whole.read_bytes()
