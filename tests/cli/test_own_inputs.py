"""No command replaces a file that it reads, by whatever name the output calls it."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from ltx2_core.cli.main import main
from ltx2_core.media import write_wav
from ltx2_core.tiny import embedded_set

from .edits import write_source

QUICK = ["--steps", "1", "--cfg", "1", "-q"]
SMALL = ["--width", "64", "--height", "64", "--frames", "9", "--fps", "8", "--stages", "1", *QUICK]
GENERATE = ["generate", "--prompt", "a ball", *SMALL]
EDIT = ["--prompt", "a ball", *QUICK]
ENCODER = ["--text-encoder", str(embedded_set().text_encoder)]
LONG = ["long", "--prompts", "a ball", "--seconds", "2", *QUICK]
TABLE = {
    "extend": ("clip.mp4", ["extend", "--video", "clip.mp4", "--frames", "4", *EDIT]),
    "retake": ("clip.mp4", ["retake", "--video", "clip.mp4", "--video-region", "1-1.5", *EDIT]),
    "exact retake": (
        "clip.mp4",
        ["retake", "--video", "clip.mp4", "--video-region", "1-1.5", "--exact-outside", *EDIT],
    ),
    "sound": ("clip.mp4", ["sound", "--video", "clip.mp4", *EDIT]),
    "dub": ("clip.mp4", ["dub", "clip.mp4", "--lora", "lora.safetensors", *EDIT[:2], "-q"]),
    "long": ("clip.mp4", [*LONG, "--video", "clip.mp4"]),
    "interpolate": ("clip.mp4", ["interpolate", "clip.mp4", "--temporal-upscaler", "lora.safetensors", "-q"]),
    "voice": ("voice.wav", ["sound", "--seconds", "1", "--reference-audio", "voice.wav", *EDIT]),
    "audio": ("voice.wav", [*GENERATE, "--audio", "voice.wav"]),
    "image": ("photo.webp", [*GENERATE, "--image", "photo.webp"]),
    "last image": ("photo.webp", [*GENERATE, "--image", "photo.webp@-1:0.7"]),
    "keyframe": ("photo.webp", [*GENERATE, "--keyframe", "photo.webp@8"]),
    "control": ("clip.mp4", [*GENERATE, "--control", "clip.mp4:0.5,scale=2"]),
    "prompts": ("list.mp4", [*GENERATE[:1], *SMALL, "--prompts-file", "list.mp4"]),
    "long prompts": ("list.mp4", ["long", "--prompts", "@list.mp4", "--seconds", "2", *QUICK]),
    "weights": ("lora.mp4", [*GENERATE, "--lora", "lora.mp4:0.5"]),
    "checkpoint": ("model.mp4", [*GENERATE, "--checkpoint", "model.mp4", *ENCODER]),
    "from file": ("made.mp4", ["generate", "--from-file", "made.mp4", "-q"]),
    "recorded image": ("photo.webp", ["generate", "--from-file", "made.mp4", "-q"]),
    "recorded source": ("clip.mp4", ["generate", "--from-file", "retake.mp4", "-q"]),
}
"""Name -> a file, and a command that reads it."""

Call = Callable[..., Result]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("inputs")
    write_source(root / "clip.mp4")
    Image.linear_gradient("L").convert("RGB").resize((64, 64)).save(root / "photo.webp")
    write_wav(root / "voice.wav", 0.1 * torch.rand(1, 16000), 16000)
    (root / "list.mp4").write_text("a ball\n")
    for name, source in (
        ("lora.safetensors", embedded_set().distilled),
        ("lora.mp4", embedded_set().distilled),
        ("model.mp4", embedded_set().checkpoint),
    ):
        shutil.copy(source, root / name)
    return root


@pytest.fixture
def ltx2(folder, monkeypatch) -> Call:
    monkeypatch.chdir(folder)

    def run(*words: object) -> Result:
        return CliRunner().invoke(main, [str(word) for word in words])

    return run


@pytest.fixture
def made(folder, ltx2) -> None:
    """Files that record their image and their source."""
    if not Path("made.mp4").exists():
        assert ltx2(*GENERATE, "--image", "photo.webp", "-o", "made.mp4").exit_code == 0
        assert ltx2(*TABLE["retake"][1], "-o", "retake.mp4").exit_code == 0


def _link(file: str, how: str) -> str:
    """Another name for ``file``, of the given kind."""
    other = f"other-{how}{Path(file).suffix}"
    Path(other).unlink(missing_ok=True)
    if how == "symlink":
        Path(other).symlink_to(file)
    elif how == "hard link":
        os.link(file, other)
    return {"same": file, "roundabout": f"../{Path.cwd().name}/{file}"}.get(how, other)


@pytest.mark.parametrize("how", ["same", "roundabout", "symlink", "hard link"])
@pytest.mark.parametrize("name", TABLE)
def test_an_input_is_never_replaced(ltx2, made, name, how):
    file, words = TABLE[name]
    before = hashlib.sha256(Path(file).read_bytes()).digest()
    # Prompts of a file give numbered files, of which one is named as the input.
    output = _link(file, how) if name != "prompts" else _numbered(file, how)
    refused = ltx2(*words, "-o", output)
    assert refused.exit_code == 2, refused.output
    last = refused.stderr.splitlines()[-1]
    assert last.startswith("Error: ")
    assert "never replaces a file that it reads" in last
    assert Path(file).name in last
    assert hashlib.sha256(Path(file).read_bytes()).digest() == before
    assert ltx2(*words, "-o", output, "--dry-run").exit_code == 2


def _numbered(file: str, how: str) -> str:
    target = Path("list_01.mp4")
    target.unlink(missing_ok=True)
    os.link(file, target) if how == "hard link" else target.symlink_to(file)
    return file


def test_the_images_of_a_folder_are_inputs(ltx2, folder):
    Path("frames").mkdir()
    for number in range(9):
        Image.new("RGB", (64, 64), (number, 0, 0)).save(f"frames/f{number}.webp")
    words = ["sound", "--video", "frames", *EDIT]
    refused = ltx2("retake", *words[1:], "--video-region", "0.1-0.3", "-o", "frames/f3.webp")
    assert refused.exit_code == 2, refused.output
    assert "never replaces" in refused.stderr
    # A video in that folder is none of its images.
    Path("frames/o.mp4").touch()
    assert ltx2(*words, "-o", "frames/o.mp4", "--dry-run").exit_code == 0


def test_what_an_option_replaces_is_no_input(ltx2, made, tmp_path):
    """A file that the tags name, and the run does not read, is replaced as any other."""
    other = write_source(tmp_path / "new.mp4")
    old = shutil.copy("clip.mp4", tmp_path / "old.mp4")
    recorded = tmp_path / "made.mp4"
    words = ["retake", "--video", old, "--video-region", "1-1.5", *EDIT]
    assert ltx2(*words, "-o", recorded).exit_code == 0
    again = ["retake", "--from-file", recorded, "--dry-run", "-o", old]
    assert ltx2(*again).exit_code == 2
    assert ltx2(*again, "--video", other).exit_code == 0
