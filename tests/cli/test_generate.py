"""``ltx2 generate`` on the embedded set, as a user runs it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import pytest
from click.testing import CliRunner, Result

from ltx2_core.cli.main import main

SMALL = ["--width", "128", "--height", "64", "--frames", "17", "--fps", "8", "--steps", "2", "--quiet"]


def generate(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["generate", "--prompt", "a ball", *map(str, arguments)])


def test_one_command_makes_a_file_with_picture_and_sound_and_prints_where(photo, sound, tmp_path) -> None:
    out = tmp_path / "clip.mp4"
    result = generate("--image", photo, "--audio", sound, "-o", out, *SMALL)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(out)
    with av.open(str(out)) as file:
        assert sum(1 for _ in file.decode(video=0)) == 17
        assert len(file.streams.audio) == 1


def test_progress_names_the_stages(tmp_path) -> None:
    result = generate("-o", tmp_path / "clip.mp4", *SMALL[:-1])
    assert result.exit_code == 0, result.output
    for stage in ("stage 1", "stage 2", "decode"):
        assert stage in result.output


def test_a_dry_run_shows_the_plan_and_writes_nothing(tmp_path) -> None:
    result = generate("--width", "200", "--seconds", "2", "-o", tmp_path / "clip.mp4", "--dry-run")
    assert result.exit_code == 0, result.output
    for part in ("192x192", "49 frames", "width is 192 instead of 200", "sigmas 1,", "0.909375", "peak"):
        assert part in result.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--width", "0"], "width=0"),
        (["--width", "200", "--snap", "error"], "multiple of 64"),
        (["--seconds", "2", "--frames", "17"], "once"),
        (["--fps", "nan"], "fps"),
        (["--image", "missing.png"], "missing.png"),
        (["--audio", "missing.wav"], "missing.wav"),
        (["--lora", "missing.safetensors:0.5"], "missing.safetensors"),
        (["--checkpoint", "missing.safetensors"], "missing.safetensors"),
        (["--sigmas", "1, 2"], "sigma"),
        (["-o", "no/such/folder/clip.mp4"], "folder"),
    ],
)
def test_bad_input_ends_with_one_line_and_no_file(arguments, message, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = [] if "--frames" in arguments or "--width" in arguments else SMALL
    result = generate(*small, *arguments)
    assert result.exit_code == 1 and message in result.output
    assert "Traceback" not in result.output and not list(tmp_path.iterdir())


def test_corrupt_pictures_sounds_and_checkpoints_are_named(tmp_path) -> None:
    broken = tmp_path / "broken.bin"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    for option in ("--image", "--audio", "--checkpoint", "--lora"):
        result = generate(option, broken, "-o", tmp_path / "clip.mp4", *SMALL)
        assert result.exit_code == 1 and "broken.bin" in result.output, option
    assert list(tmp_path.iterdir()) == [broken]


def test_a_checkpoint_without_its_parts_says_what_is_missing(tmp_path) -> None:
    from ltx2_core.tiny import embedded_set

    files = embedded_set()
    result = generate("--checkpoint", files.checkpoint, "-o", tmp_path / "clip.mp4", *SMALL)
    assert result.exit_code == 1 and "text" in result.output
    result = generate(
        "--checkpoint",
        files.upsampler,
        "--text-encoder",
        files.text_encoder,
        "-o",
        tmp_path / "clip.mp4",
        *SMALL,
    )
    assert result.exit_code == 1 and "upsampler" in result.output
    assert not list(tmp_path.iterdir())


def test_control_c_stops_at_once_and_leaves_nothing(tmp_path) -> None:
    command = [sys.executable, "-m", "ltx2_core.cli.main", "generate", "--prompt", "x", "--steps", "500"]
    process = subprocess.Popen(
        [*command, "-o", str(tmp_path / "clip.mp4")],
        stderr=subprocess.PIPE,
        cwd=Path(__file__).resolve().parents[2],
        text=True,
    )
    assert process.stderr is not None
    seen = ""
    while "stage 1" not in seen:
        character = process.stderr.read(1)
        assert character, seen
        seen += character
    process.send_signal(signal.SIGINT)
    start = time.monotonic()
    process.wait(timeout=60)
    assert process.returncode != 0 and time.monotonic() - start < 30
    assert "Traceback" not in process.stderr.read() and not list(tmp_path.iterdir())
