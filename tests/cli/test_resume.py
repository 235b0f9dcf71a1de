"""A decode that fails costs no sampling: the sampled latents are saved, and decoded on request."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner

from ltx2_core.cli.main import main
from ltx2_core.media import read_metadata
from ltx2_core.run import saved_latents as kept
from ltx2_core.run.pipeline import LTX2Pipeline

SMALL = ["--width", "64", "--height", "64", "--frames", "9", "--fps", "8", "--steps", "1", "--stages", "1"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(kept.tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    return kept.saved_folder()


def generate(*arguments):
    return CliRunner().invoke(main, ["generate", "--quiet", *map(str, arguments)])


def test_a_run_whose_decode_fails_is_finished_later(folder, tmp_path, monkeypatch) -> None:
    out, whole = tmp_path / "clip.mp4", tmp_path / "whole.mp4"
    arguments = ["--prompt", "a ball", "--seed", "3", *SMALL]
    assert generate(*arguments, "-o", whole).exit_code == 0
    assert not list(folder.iterdir()), "a run that succeeds leaves nothing"

    def refuse(self, latent, **options):
        raise torch.OutOfMemoryError("refused")

    with monkeypatch.context() as broken:
        broken.setattr(LTX2Pipeline, "decode_video", refuse)
        failed = generate(*arguments, "-o", out)
    assert failed.exit_code == 1, failed.output
    assert "memory ran out" in failed.output, failed.output
    assert f"--resume -o {out}" in failed.output
    assert "Traceback" not in failed.output
    assert len(list(folder.iterdir())) == 1
    assert not out.exists()

    wrong = generate("--resume", "-o", tmp_path / "other.mp4")
    assert wrong.exit_code == 2
    assert "no latents of" in wrong.output
    assert str(out) in wrong.output

    for option, value in (
        ("--prompt", "a cube"),
        ("--seed", 4),
        ("--steps", 2),
        ("--stages", 2),
        ("--fps", 9),
    ):
        changed = generate("--resume", option, value)
        assert changed.exit_code == 2, changed.output
        assert f"saved latents are of {option}" in changed.output

    with monkeypatch.context() as watched:
        watched.setattr(LTX2Pipeline, "__call__", lambda *a, **k: pytest.fail("nothing is sampled again"))
        resumed = generate("--resume", *arguments)
    assert resumed.exit_code == 0, resumed.output
    assert resumed.stdout.strip() == str(out), resumed.output
    assert out.read_bytes() == whole.read_bytes()
    assert json.loads(read_metadata(out)["ltx2"])["request"]["seed"] == 3
    assert not list(folder.iterdir())
    assert "no latents are saved" in generate("--resume").output
