"""Training that is killed at any moment resumes with the same weights and the same curve of the loss."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[1]))

from kill_points import run, spread, train

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")


def curve(path: Path) -> list[list[float]]:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["training"])["curves"]["loss"]


@pytest.mark.parametrize("points", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_training_resumes_with_the_same_weights_and_losses(tmp_path, points):
    whole = tmp_path / "whole.safetensors"
    undisturbed = run(train, whole, folder=tmp_path / "whole")
    assert undisturbed.code == 0, undisturbed.output
    assert {"write", "rename", "renamed"} <= set(undisturbed.events)
    middle = [at + len(undisturbed.events) // 2 for at in range(8)]
    for at in middle[:points] if points < 8 else spread(undisturbed.events, points):
        path = tmp_path / f"at{at}.safetensors"
        killed = run(train, path, folder=tmp_path / f"at{at}", kill_at=at)
        assert killed.code == -signal.SIGKILL
        assert run(train, path, folder=tmp_path / f"at{at}").code == 0
        one, other = load_file(path), load_file(whole)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one), undisturbed.events[at]
        assert curve(path) == curve(whole)
