"""SIGTERM ends a command as Ctrl+C does: nothing half written, and what was sampled is named."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ltx2_core.media import read_video

if os.name != "posix":
    pytest.skip("signals are those of POSIX", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129}
MOST_S = 1800
"""Seconds after which a test gives up; a machine that does much else at the same time is slow."""
ENDLESS = 10_000
"""Steps of a run that is surely still sampled when a signal reaches it, however late."""
SIZE = ["--width", "64", "--height", "64", "--fps", "8"]


def default_signals() -> None:
    # A shell that runs the tests in the background has told its children to ignore some.
    for number in CODES:
        signal.signal(number, signal.SIG_DFL)


def start(words, folder: Path, **options) -> subprocess.Popen:
    (folder / "temporary").mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "ltx2_core.cli.main", *map(str, words)],
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder / "temporary")},
        preexec_fn=default_signals,
        **options,
    )


def wait_for(process: subprocess.Popen, text: bytes) -> bytes:
    """What the process printed up to ``text``."""
    assert process.stderr is not None
    seen = b""
    while text not in seen:
        character = process.stderr.read(1)
        assert character, seen.decode()
        seen += character
    return seen


def left_over(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)]
)
def test_a_signal_while_sampling_leaves_nothing(tmp_path, number) -> None:
    words = ["generate", "--prompt", "x", *SIZE, "--frames", "9", "--steps", ENDLESS, "--stages", "1"]
    process = start([*words, "-o", tmp_path / "clip.mp4"], tmp_path, stdout=subprocess.PIPE)
    wait_for(process, b"stage 1 1/")
    process.send_signal(number)
    printed, shown = process.communicate(timeout=MOST_S)[::-1]
    assert process.returncode == CODES[number], printed
    assert f"stopped by {number.name}" in printed.decode()
    assert b"Traceback" not in printed
    assert not shown
    assert left_over(tmp_path) == []


@pytest.mark.slow
def test_a_signal_while_encoding_leaves_the_old_file_and_names_the_latents(tmp_path) -> None:
    out = tmp_path / "clip.mkv"
    out.write_bytes(b"the old film")
    size = [
        "--width",
        "256",
        "--height",
        "192",
        "--frames",
        "97",
        "--fps",
        "24",
        "--steps",
        "1",
        "--cfg",
        "1",
    ]
    slow = ["--encoder-preset", "veryslow", "--stages", "1"]
    process = start(["generate", "--prompt", "x", *size, *slow, "-o", out], tmp_path, stdout=subprocess.PIPE)
    wait_for(process, b"decode, encode ")
    assert any(path.suffix == ".part" for path in tmp_path.iterdir())
    process.send_signal(signal.SIGTERM)
    printed = process.communicate(timeout=MOST_S)[1].decode()
    assert process.returncode == 143, printed
    assert f"ltx2 generate --resume -o {out} decodes them" in printed
    assert out.read_bytes() == b"the old film"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["clip.mkv"]
    assert len([name for name in left_over(tmp_path) if name.endswith(".latents.safetensors")]) == 1


@pytest.mark.slow
def test_a_reader_that_does_not_read_can_be_left_by_a_signal(tmp_path) -> None:
    words = ["generate", "--prompt", "x", *SIZE, "--frames", "97", "--steps", "1", "--cfg", "1", "-q"]
    lossless = ["--stages", "1", "--crf", "0", "-o", "-", "--container", "mkv"]
    process = start([*words, *lossless], tmp_path, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.read(1000)[:4] == b"\x1a\x45\xdf\xa3"
    # The rest is larger than the pipe, so that the process soon waits in the middle of a write.
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=MOST_S)
    assert process.stderr is not None
    printed = process.stderr.read().decode()
    assert process.returncode == 143, printed
    assert "--resume -o -" in printed


@pytest.mark.slow
def test_a_long_clip_that_was_told_to_stop_continues(tmp_path) -> None:
    words = [
        "long",
        "--prompts",
        "x",
        "--seconds",
        "4",
        *SIZE,
        "--window-frames",
        "17",
        "--overlap-frames",
        "16",
    ]
    words += ["--steps", "2", "--cfg", "1", "-o", tmp_path / "clip.mp4"]
    process = start(words, tmp_path, stdout=subprocess.PIPE)
    wait_for(process, b"window 1 of")
    process.send_signal(signal.SIGTERM)
    printed = process.communicate(timeout=MOST_S)[1].decode()
    assert process.returncode == 143, printed
    assert "the same command with --resume continues" in printed
    assert not [path for path in tmp_path.iterdir() if path.is_file()]
    again = start([*words, "--resume", "-q"], tmp_path, stdout=subprocess.PIPE)
    assert again.communicate(timeout=MOST_S)[0].decode().strip() == str(tmp_path / "clip.mp4")
    assert read_video(tmp_path / "clip.mp4").frame_count == 33
