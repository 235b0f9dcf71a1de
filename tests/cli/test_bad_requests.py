"""Every request that cannot be met ends with exit code 2 and one line, before a network is loaded."""

from __future__ import annotations

import errno
import importlib
import json
import os
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from ltx2_core.cli.errors import ending
from ltx2_core.cli.main import main
from ltx2_core.media import VideoWriter
from ltx2_core.tiny import embedded_set

from .bad_requests import COMPLETE, ROWS, Row

READERS = ("ltx2_core.storage.reading", "ltx2_core.loading.lora_merge", "ltx2_core.loading.convert")
"""Modules that read the weights of model files."""

LONGEST_LINE = 700


@pytest.fixture(scope="module")
def files(photo: Path, sound: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files that a request may name: usable ones, wrong kinds and damaged ones."""
    root, embedded = tmp_path_factory.mktemp("files"), embedded_set()
    found = {"photo": photo, "sound": sound, "missing": root / "missing.bin"}
    for name in ("folder", "empty_folder", "no_tokenizer"):
        found[name] = root / name
        found[name].mkdir()
    (found["folder"] / "x.txt").write_text("x")
    for name in ("config.json", "model.safetensors"):
        shutil.copy(embedded.text_encoder / name, found["no_tokenizer"] / name)
    found["encoder"] = embedded.text_encoder
    for name, source in (
        ("checkpoint", embedded.checkpoint),
        ("upscaler", embedded.upsampler),
        ("lora", embedded.distilled),
    ):
        found[name] = root / f"{name}.safetensors"
        found[name].symlink_to(source)
    contents: dict[str, tuple[str, bytes]] = {
        "text": ("text.txt", b"this is a text and nothing else"),
        "empty": ("empty.bin", b""),
        "broken": ("broken.png", b"\x89PNG\r\n\x1a\n" + bytes(100)),
        "pickle": ("pickle.pt", b"\x80\x02}q\x00." + bytes(64)),
        "gguf": ("model.gguf", b"GGUF" + bytes(64)),
        "truncated": ("truncated.safetensors", embedded.upsampler.read_bytes()[:5000]),
        "playlist": ("playlist.mp4", b"#EXTM3U\n/etc/passwd\n"),
        "falling": ("falling.txt", b"5: a red circle\n2: a blue square\n"),
        # Told by these four bytes, with or without the library that reads the rest.
        "exr": ("plate.exr", b"\x76\x2f\x31\x01" + bytes(64)),
        "blob": ("blob.txt", b"\xff\xfe\x00\x80"),
        "deep": ("deep.txt", b"[" * 100_000),
    }
    for name, (file, content) in contents.items():
        found[name] = root / file
        found[name].write_bytes(content)
    found["exr_folder"] = root / "plates"
    found["exr_folder"].mkdir()
    (found["exr_folder"] / "plate1.exr").write_bytes(contents["exr"][1])
    found["nan_sound"] = root / "nan.wav"
    _write_float_wav(found["nan_sound"], np.full((800, 1), np.nan, np.float32))
    found["bomb"] = root / "bomb.png"
    Image.new("1", (13000, 13000)).save(found["bomb"])
    found["clip"], found["silent"] = root / "clip.mp4", root / "silent.mp4"
    _write_clip(found["clip"], rate=16000)
    _write_clip(found["silent"], rate=None)
    found["pipe"], found["loop"] = root / "pipe", root / "loop"
    os.mkfifo(found["pipe"])
    found["loop"].symlink_to(found["loop"])
    found["long_name"] = root / ("name" * 100)
    return found


def _write_clip(path: Path, *, rate: int | None) -> None:
    with VideoWriter(path, width=64, height=64, fps=8.0, sample_rate=rate) as writer:
        if rate is not None:
            writer.write_audio(torch.zeros(2, 2 * rate))
        writer.write_frames(torch.linspace(-1, 1, 33)[:, None, None, None].expand(-1, 3, 64, 64))


def _write_float_wav(path: Path, samples: np.ndarray) -> None:
    """A WAV of 32-bit floats, which can hold values that integers cannot."""
    data = samples.tobytes()
    head = b"WAVEfmt " + (16).to_bytes(4, "little") + (3).to_bytes(2, "little") + (1).to_bytes(2, "little")
    head += (8000).to_bytes(4, "little") + (32000).to_bytes(4, "little") + (4).to_bytes(2, "little")
    head += (32).to_bytes(2, "little") + b"data" + len(data).to_bytes(4, "little")
    path.write_bytes(b"RIFF" + (len(head) + len(data)).to_bytes(4, "little") + head + data)


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading the weights of a model file fails the test; headers may be read."""

    def read(path: Any, *arguments: Any, **options: Any) -> None:
        pytest.fail(f"the weights in {path} were read")

    for module in READERS:
        monkeypatch.setattr(importlib.import_module(module), "safe_open", read)


@pytest.fixture
def ltx2(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, str], Result]:
    """Run a command in an empty folder, with the names in braces replaced."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path.parent))

    def run(command: str, text: str) -> Result:
        words = []
        for word in shlex.split(text):
            if word == "B":
                words += shlex.split(COMPLETE[command])
            elif word == "M":
                words += ["--checkpoint", "{checkpoint}", "--text-encoder", "{encoder}"]
            else:
                words.append(word)
        for name, path in files.items():
            words = [word.replace(f"{{{name}}}", str(path)) for word in words]
        return CliRunner().invoke(main, [command, *words])

    return run


def _name(row: Row) -> str:
    return json.dumps(" ".join(row[:2])).strip('"')


@pytest.mark.parametrize("row", ROWS, ids=_name)
def test_a_request_that_cannot_be_met_is_refused_in_one_line(row: Row, ltx2, unread, tmp_path) -> None:
    command, arguments, words = row
    result = ltx2(command, arguments)
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code == 2, result.output
    line = result.stderr.splitlines()[-1]
    assert line.startswith("Error: "), result.stderr
    assert words in line
    assert len(line) < LONGEST_LINE
    if re.search(r"--[a-z2-]+ [\"']?@?\{", arguments) and not re.search(r" -o | M( |$)", arguments):
        assert "--" in line, "a message about a file names the option that has it"
    # Usage and a hint at --help are all that may come before it.
    assert len(result.stderr.splitlines()) <= 4, result.stderr
    assert not list(tmp_path.iterdir())


def test_the_table_has_no_row_twice_and_covers_every_command() -> None:
    from ltx2_core.cli.main import SUBCOMMANDS

    assert len(set(ROWS)) == len(ROWS)
    assert {command for command, _, _ in ROWS} >= SUBCOMMANDS.keys()


def test_a_request_that_can_be_met_reads_weights(ltx2, unread) -> None:
    """Without this, a guard that watches nothing would pass every row."""
    with pytest.raises(pytest.fail.Exception, match="were read"):
        ltx2("generate", "B")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("width=0 must be positive"), 2),
        (FileNotFoundError(errno.ENOENT, "no such file", "a.png"), 2),
        (FileNotFoundError("no image file at a.png"), 2),
        (IsADirectoryError(errno.EISDIR, "is a folder", "a"), 2),
        (PermissionError(errno.EACCES, "may not be written", "a"), 2),
        (OSError(errno.ENAMETOOLONG, "name too long", "a"), 2),
        (OSError(errno.ENOSPC, "the disk is full", "a"), 1),
        (OSError(errno.EIO, "input/output error", "a"), 1),
        (OSError(errno.EMFILE, "too many open files"), 1),
    ],
)
def test_the_exit_code_tells_a_wrong_request_from_a_failure_of_the_machine(error, code) -> None:
    end = ending(error)
    assert end.exit_code == code
    assert "\n" not in end.message


@pytest.mark.parametrize(
    ("message", "command", "explicit", "line"),
    [
        ("steps=0 must be above", "generate", {}, "--steps 0 must be above"),
        ("num_frames=4 and seconds=2", "generate", {}, "--frames 4 and --seconds 2"),
        ("to_sigma <= 1; got to_sigma=2", "generate", {}, "--to-sigma <= 1; got --to-sigma 2"),
        ("keep_frames=7 of frames=9", "extend", {}, "--keep-frames 7 of --frames 9"),
        ("prompts, line 2: no time", "long", {}, "--prompts, line 2: no time"),
        ("audio: no stream", "generate", {}, "--audio: no stream"),
        ("images: no file", "generate", {"images": ("a.png@0",)}, "--keyframe: no file"),
        ("images: no file", "generate", {"image": ("a.png@0",)}, "--image: no file"),
        ("images: no file", "generate", {"image": (), "images": ()}, "--image or --keyframe: no file"),
        (
            "models/text_encoder/x and text_encoder.norm",
            "generate",
            {},
            "models/text_encoder/x and text_encoder.norm",
        ),
        ("the audio, and the image: both", "generate", {}, "the audio, and the image: both"),
        ("a.bin is empty", "generate", {"loras": ("a.bin:0.5:1",)}, "--lora: a.bin is empty"),
        (
            "a.bin is empty",
            "generate",
            {"loras": ("a.bin",), "checkpoints": (Path("a.bin"),)},
            "--lora or --checkpoint: a.bin is empty",
        ),
        (
            "d/a.bin is empty",
            "generate",
            {"output": "d/o.mp4", "loras": ("d/a.bin",)},
            "--lora: d/a.bin is empty",
        ),
        ("d: no such folder", "generate", {"output": "d/o.mp4"}, "--output: d: no such folder"),
        ("../d: no such folder", "generate", {"output": "../d/o.mp4"}, "--output: ../d: no such folder"),
        ("xa.bin is empty", "generate", {"loras": ("a.bin",)}, "xa.bin is empty"),
        ("'huge' is no size", "plan", {"budgets": ("huge",)}, "--max-memory: 'huge' is no size"),
        ("the clip has 0.5 s", "generate", {"sigmas": "0.5, 0"}, "the clip has 0.5 s"),
        (
            "--seconds is too much for a.mp4",
            "extend",
            {"source": Path("a.mp4")},
            "--seconds is too much for a.mp4",
        ),
    ],
)
def test_a_message_names_the_flags_that_the_user_wrote(message, command, explicit, line) -> None:
    assert ending(ValueError(message), explicit, command).message == line


def test_an_error_of_the_system_is_said_without_its_number() -> None:
    error = FileNotFoundError(errno.ENOENT, "no such output folder; create it first", "no/such")
    assert ending(error).message == "no/such: no such output folder; create it first"


def test_a_message_is_one_line_that_any_terminal_shows() -> None:
    message = ending(ValueError("no image at a\udc80\n  and more")).message
    assert message == "no image at a\\udc80 and more"


def test_the_exit_codes_are_in_the_help_and_in_the_docs() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    shown = CliRunner().invoke(main, ["--help"]).output
    for number in ("0", "1", "2", "130", "143"):
        assert f" {number} " in " ".join(shown.split()).replace(":", " ")
        assert f"| {number} |" in page
