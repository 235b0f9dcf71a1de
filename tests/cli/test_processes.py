"""``ltx2 generate`` in two processes, as torchrun starts them, makes the clip of one."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from ltx2_core.cli.main import main
from ltx2_core.media import read_video
from ltx2_core.processes import join_processes

sys.path.insert(0, str(Path(__file__).parents[1]))

from processes import run_processes

SMALL = ["--width", "64", "--height", "64", "--frames", "9", "--fps", "8", "--steps", "2", "--stages", "1"]


def generate(out):
    result = CliRunner().invoke(main, ["generate", "--prompt", "a ball", "--quiet", *SMALL, "-o", str(out)])
    return result.exit_code, result.output


def together(folder):
    import torch.distributed as dist

    os.environ["WORLD_SIZE"] = "2"
    return generate(Path(folder) / f"of rank {dist.get_rank()}.mp4")


def test_two_processes_make_the_clip_of_one_and_the_first_writes_it(tmp_path):
    assert generate(tmp_path / "one.mp4")[0] == 0
    results = run_processes(2, together, str(tmp_path))
    assert [code for code, _ in results] == [0, 0], results
    assert sorted(path.name for path in tmp_path.iterdir()) == ["of rank 0.mp4", "one.mp4"]
    one, two = (read_video(tmp_path / name).read() for name in ("one.mp4", "of rank 0.mp4"))
    assert one.shape == two.shape and (one.float() - two.float()).abs().mean() < 0.01


def test_without_torchrun_there_is_nobody_to_meet(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert join_processes("cuda:1") == (None, "cuda:1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="must be cuda or cpu; got cuda:1"):
        join_processes("cuda:1")
