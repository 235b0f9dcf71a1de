"""``ltx2 generate`` in several processes, as torchrun starts them, makes the clip of one."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from ltx2_core.cli.main import main
from ltx2_core.media import read_video
from ltx2_core.run.distributed import Processes, join_processes

sys.path.insert(0, str(Path(__file__).parents[1]))

from processes import run_processes

SMALL = ["--width", "64", "--height", "64", "--frames", "9", "--fps", "8", "--steps", "2", "--stages", "1"]


def generate(out, *more):
    arguments = ["generate", "--prompt", "a ball", "--quiet", *SMALL, *more, "-o", str(out)]
    result = CliRunner().invoke(main, arguments)
    return result.exit_code, result.output


def together(folder, count, more):
    import torch.distributed as dist

    os.environ["WORLD_SIZE"] = str(count)
    return generate(Path(folder) / f"of rank {dist.get_rank()}.mp4", *more)


@pytest.mark.parametrize(("count", "groups"), [(2, 1), (2, 2), pytest.param(4, 2, marks=pytest.mark.slow)])
def test_several_processes_make_the_clip_of_one_and_the_first_writes_it(tmp_path, count, groups):
    guidance = ["--cfg", "3", "--stg", "1", "--stg-blocks", "1"]
    assert generate(tmp_path / "one.mp4", *guidance)[0] == 0
    more = (*guidance, "--guidance-parallel", str(groups))
    results = run_processes(count, together, str(tmp_path), count, more)
    assert [code for code, _ in results] == [0] * count, results
    assert sorted(path.name for path in tmp_path.iterdir()) == ["of rank 0.mp4", "one.mp4"]
    one, two = (read_video(tmp_path / name).read() for name in ("one.mp4", "of rank 0.mp4"))
    assert one.shape == two.shape
    assert (one.float() - two.float()).abs().mean() < 0.01


def test_without_torchrun_there_is_nobody_to_meet(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert join_processes("cuda:1") == (Processes(), "cuda:1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="must be cuda or cpu; got cuda:1"):
        join_processes("cuda:1")
    with pytest.raises(ValueError, match="2 processes cannot be divided among 3 passes"):
        join_processes(passes=3)
