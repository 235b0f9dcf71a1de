"""A full disk, of temporary files or of the output, loses nothing that was sampled and says where it is."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from ltx2_core.cli.main import main
from ltx2_core.run import saved_latents
from ltx2_core.run.pipeline import LTX2Pipeline
from ltx2_core.storage import writing

QUICK = ["--width", "64", "--height", "64", "--fps", "16", "--steps", "1", "--cfg", "1", "--seed", "3"]
GENERATE = ["generate", "--prompt", "a ball", "--frames", "9", "--stages", "1", "--quiet", *QUICK]
WINDOWS = ["--seconds", "2", "--window-frames", "25", "--overlap-frames", "16"]
LONG = ["long", "--prompts", "a ball", *WINDOWS, *QUICK]


@pytest.fixture(scope="module")
def whole_of(tmp_path_factory):
    """The bytes of the file that a command makes undisturbed; made once."""
    made: dict[str, bytes] = {}

    def make(words: list[str]) -> bytes:
        if words[0] not in made:
            path = tmp_path_factory.mktemp("whole") / "whole.mp4"
            assert ltx2(*words, "-o", path).exit_code == 0
            made[words[0]] = path.read_bytes()
        return made[words[0]]

    return make


@pytest.fixture(params=["tmpfs", "error of safetensors"])
def full(request, tmp_path, monkeypatch) -> Iterator[Path]:
    """A folder without room for latents: a real file system where mounting is allowed, or only its error."""
    folder = tmp_path / "full"
    folder.mkdir()
    if request.param == "tmpfs":
        words = ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(folder)]
        if subprocess.run(words, capture_output=True, check=False).returncode:
            pytest.skip("file systems cannot be mounted here")
        try:
            yield folder
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        return
    save = writing.write_safetensors

    def refuse(path, entries, metadata):
        if folder in Path(path).parents:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(path, entries, metadata)

    monkeypatch.setattr(writing, "write_safetensors", refuse)
    yield folder


@pytest.fixture
def temporary(monkeypatch):
    """Sets the folder of temporary files."""
    return lambda folder: monkeypatch.setattr(saved_latents.tempfile, "gettempdir", lambda: str(folder))


def ltx2(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def refuse(*given, **options):
    raise torch.OutOfMemoryError("refused")


def files_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if "latents" in p.name or "window" in p.name)


@pytest.mark.parametrize("words", [GENERATE, LONG], ids=["generate", "long"])
def test_a_run_succeeds_while_the_temporary_disk_is_full(full, temporary, tmp_path, whole_of, words) -> None:
    out, whole = tmp_path / "results" / "clip.mp4", whole_of(words)
    out.parent.mkdir()
    temporary(full)
    ran = ltx2(*words, "-o", out)
    assert ran.exit_code == 0, ran.output
    assert out.read_bytes() == whole
    assert files_in(out.parent) == []


@pytest.mark.parametrize("words", [GENERATE, LONG], ids=["generate", "long"])
def test_what_was_sampled_is_next_to_the_output_if_the_decode_fails_then(
    full, temporary, tmp_path, whole_of, monkeypatch, words
) -> None:
    out, whole = tmp_path / "results" / "clip.mp4", whole_of(words)
    out.parent.mkdir()
    temporary(full)
    with monkeypatch.context() as broken:
        broken.setattr(LTX2Pipeline, "decode_video", refuse)
        failed = ltx2(*words, "-o", out)
    assert failed.exit_code == 1
    assert "Traceback" not in failed.output
    assert str(out.parent) in failed.output, failed.output
    assert "--resume" in failed.output, failed.output
    assert files_in(out.parent)
    again = ["generate"] if words is GENERATE else words
    with monkeypatch.context() as watched:
        watched.setattr(LTX2Pipeline, "__call__", lambda *a, **k: pytest.fail("nothing is sampled again"))
        resumed = ltx2(*again, "--resume", "-o", out)
    assert resumed.exit_code == 0, resumed.output
    assert out.read_bytes() == whole
    assert files_in(out.parent) == []


def test_latents_that_fit_nowhere_are_decoded_all_the_same(temporary, tmp_path, monkeypatch) -> None:
    def refuse_all(path, entries, metadata):
        raise OSError(errno.ENOSPC, "No space left on device")

    temporary(tmp_path / "temporary")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(writing, "write_safetensors", refuse_all)
    ran = ltx2(*GENERATE, "-o", tmp_path / "clip.mp4")
    assert ran.exit_code == 0, ran.output
    assert "could not be saved before decoding" in ran.output
    assert "the disk is full" in ran.output
    assert (tmp_path / "clip.mp4").stat().st_size


def test_a_full_output_disk_leaves_the_latents_and_says_where(temporary, tmp_path, monkeypatch) -> None:
    full, latents = tmp_path / "full", tmp_path / "temporary"
    full.mkdir()
    latents.mkdir()
    temporary(latents)
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(full)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        failed = ltx2(*GENERATE, "--frames", "33", "-o", full / "clip.mp4")
        assert failed.exit_code == 1
        assert "Traceback" not in failed.output
        assert "the disk is full" in failed.output, failed.output
        assert str(latents) in failed.output
        assert not list(full.iterdir()), "no partial file is left"
        subprocess.run(["mount", "-o", "remount,size=10m", str(full)], check=True)
        resumed = ltx2("generate", "--resume", "-o", full / "clip.mp4")
        assert resumed.exit_code == 0, resumed.output
        assert not list(latents.rglob("*.safetensors"))
    finally:
        subprocess.run(["umount", "-l", str(full)], check=True)
