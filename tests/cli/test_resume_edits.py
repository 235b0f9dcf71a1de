"""Edits and long clips whose decode fails are finished later, with the file of an undisturbed run."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner

from ltx2_core.cli.main import main
from ltx2_core.run import saved_latents as kept
from ltx2_core.run.pipeline import LTX2Pipeline

from .edits import write_source

QUICK = ["--steps", "1", "--cfg", "1", "--seed", "3"]
EDITS = {
    "extend": (["extend", "--video", "CLIP", "--frames", "4", "--keep-frames", "9"], ".mp4", "decode_video"),
    "retake": (["retake", "--video", "CLIP", "--video-region", "1-1.5"], ".mp4", "decode_audio"),
    "sound": (["sound", "--video", "CLIP", "--ceiling-db", "-20"], ".mp4", "decode_audio"),
    "audio": (["sound", "--seconds", "1"], ".wav", "decode_audio"),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(kept.tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    return kept.saved_folder()


@pytest.fixture
def clip(tmp_path):
    return write_source(tmp_path / "source.mp4")


def ltx2(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def refuse(*given, **options):
    raise torch.OutOfMemoryError("refused")


@pytest.mark.parametrize("edit", list(EDITS))
def test_an_edit_whose_decode_fails_is_finished_later(folder, clip, tmp_path, monkeypatch, edit) -> None:
    words, suffix, decode = EDITS[edit]
    words = [clip if word == "CLIP" else word for word in words]
    out, whole = tmp_path / f"out{suffix}", tmp_path / f"whole{suffix}"
    ran = ltx2(*words, "--prompt", "a ball", *QUICK, "-o", whole)
    assert ran.exit_code == 0, ran.output
    assert not list(folder.iterdir()), "a run that succeeds leaves nothing"

    with monkeypatch.context() as broken:
        broken.setattr(LTX2Pipeline, decode, refuse)
        failed = ltx2(*words, "--prompt", "a ball", *QUICK, "-o", out)
    assert failed.exit_code == 1, failed.output
    assert "memory ran out" in failed.output, failed.output
    assert f"ltx2 {words[0]} --resume -o {out}" in failed.output
    assert len(list(folder.iterdir())) == 1
    assert not out.exists()

    with monkeypatch.context() as watched:
        watched.setattr(LTX2Pipeline, "__call__", lambda *a, **k: pytest.fail("nothing is sampled again"))
        watched.setattr(LTX2Pipeline, "encode_video", lambda *a, **k: pytest.fail("nothing is encoded"))
        resumed = ltx2(words[0], "--resume", "-o", out)
    assert resumed.exit_code == 0, resumed.output
    assert resumed.stdout.strip() == str(out), resumed.output
    assert out.read_bytes() == whole.read_bytes()
    assert not list(folder.iterdir())


def test_what_was_sampled_for_another_source_is_refused(folder, clip, tmp_path, monkeypatch) -> None:
    words = ["retake", "--video", clip, "--prompt", "a ball", "--video-region", "1-1.5", *QUICK]
    out = tmp_path / "out.mp4"
    with monkeypatch.context() as broken:
        broken.setattr(LTX2Pipeline, "decode_audio", refuse)
        ltx2(*words, "-o", out)
    clip.write_bytes(clip.read_bytes() + b"more")
    changed = ltx2("retake", "--resume", "-o", out)
    assert changed.exit_code == 2
    assert "has changed" in changed.output
    assert len(list(folder.iterdir())) == 1, "it is kept for when the file is back"


@pytest.mark.parametrize(
    ("words", "message"),
    [(["retake", "--prompt", "x"], "--video"), (["extend", "--video", "x.mp4"], "--prompt")],
)
def test_without_resume_the_prompt_and_the_video_are_needed(words, message) -> None:
    assert f"Missing option '{message}'" in ltx2(*words).output


def test_a_long_clip_that_fails_resumes_with_the_runs_that_are_finished(
    folder, tmp_path, monkeypatch
) -> None:
    size = ["--width", "64", "--height", "64", "--fps", "8", "--seconds", "4"]
    words = ["long", "--prompts", "a ball", *size, "--window-frames", "25", "--overlap-frames", "16", *QUICK]
    out, whole = tmp_path / "out.mp4", tmp_path / "whole.mp4"
    assert ltx2(*words, "-o", whole).exit_code == 0
    assert not list(folder.iterdir()), "a run that succeeds leaves nothing"
    assert "no windows of" in ltx2(*words, "--resume", "-o", out).output
    with monkeypatch.context() as broken:
        broken.setattr(LTX2Pipeline, "decode_video", refuse)
        failed = ltx2(*words, "-o", out)
    assert failed.exit_code == 1
    assert "--resume continues" in failed.output
    with monkeypatch.context() as watched:
        watched.setattr(LTX2Pipeline, "__call__", lambda *a, **k: pytest.fail("nothing is sampled again"))
        resumed = ltx2(*words, "--resume", "-o", out)
    assert resumed.exit_code == 0, resumed.output
    assert out.read_bytes() == whole.read_bytes()
    assert not list(folder.iterdir())
