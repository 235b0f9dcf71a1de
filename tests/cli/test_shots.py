"""``--shots``: the same clip as with options, replaced by what the user writes; and ``ltx2 shots``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from ltx2_core.cli.main import main
from ltx2_core.media import VideoWriter
from ltx2_core.run.shots import FORMAT

CLIP = {"width": 64, "height": 64, "frames": 17, "fps": 8, "stages": 1, "steps": 1, "seed": 5, "cfg": 1}
PARTS = [
    {"from": 0, "prompt": "a red circle bounces"},
    {"from": "f9", "prompt": "a blue square stands still"},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "first.png")
    for name in ("last.png", "photo.webp"):
        Image.new("RGB", (64, 64), "blue").save(tmp_path / name)
    write(tmp_path)
    return tmp_path


def write(folder: Path, **changes) -> Path:
    images = [{"file": "first.png"}, {"file": "last.png", "at": "end", "strength": 0.8}]
    values = {
        "format": FORMAT,
        "clip": CLIP,
        "prompt": "on white",
        "parts": PARTS,
        "images": images,
        **changes,
    }
    path = folder / "shots.json"
    path.write_text(json.dumps(values))
    return path


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments)])


def test_a_list_makes_the_frames_of_the_same_options_and_its_file_can_be_repeated(folder: Path) -> None:
    by_list, by_options = folder / "list.mp4", folder / "options.mp4"
    made = call("generate", "--shots", folder / "shots.json", "-q", "-o", by_list)
    assert made.exit_code == 0, made.output
    options = [word for name, value in CLIP.items() for word in (f"--{name}", value)]
    parts = "0: a red circle bounces; 1.125: a blue square stands still"
    texts = ["--prompt", "on white", "--prompts-at", parts]
    images = ["--image", folder / "first.png", "--keyframe", f"{folder / 'last.png'}@-1:0.8"]
    made = call("generate", *texts, *images, *options, "-q", "-o", by_options)
    assert made.exit_code == 0, made.output
    assert frames_of(by_list) == frames_of(by_options)
    again = call("generate", "--from-file", by_list, "-q", "-o", folder / "again.mp4")
    assert again.exit_code == 0, again.output
    assert frames_of(folder / "again.mp4") == frames_of(by_list)


def frames_of(path: Path) -> bytes:
    """The decoded frames of a file, whose tags may differ."""
    from ltx2_core.media import read_video

    return read_video(path).read().numpy().tobytes()


def test_what_the_user_writes_replaces_the_list(folder: Path) -> None:
    plan = call("generate", "--shots", folder / "shots.json", "--seconds", "4", "--width", "96", "--dry-run")
    assert plan.exit_code == 0, plan.output
    assert "96x64" in plan.output
    assert "33 frames" in plan.output


def test_a_long_clip_takes_prompts_and_keyframes_of_a_list(folder: Path) -> None:
    clip = {**CLIP, "frames": 65}
    plan = call("long", "--shots", write(folder, clip=clip), "--window-frames", "25", "--dry-run")
    assert plan.exit_code == 0, plan.output
    assert "on white a red circle bounces" in plan.output
    assert "on white a blue square stands still" in plan.output
    refused = call("long", "--shots", write(folder, control=[{"file": "d.mp4"}]), "--dry-run")
    assert refused.exit_code == 2
    assert "--video" in refused.output


SECOND = {"track": "video", "from": 1, "to": 2}


def test_regions_of_a_source_are_regenerated_as_by_retake(folder: Path) -> None:
    made = call("generate", "--shots", folder / "shots.json", "-q", "-o", folder / "clip.mp4")
    assert made.exit_code == 0, made.output
    images = [{"file": "first.png"}]
    changes = {"clip": {**CLIP, "seed": 6}, "images": images, "parts": []}
    path = write(folder, source={"file": "clip.mp4"}, regions=[SECOND], **changes)
    by_list, by_options = folder / "list.mp4", folder / "options.mp4"
    made = call("generate", "--shots", path, "-q", "-o", by_list)
    assert made.exit_code == 0, made.output
    assert "the first image has no effect" in made.output
    options = ["--video-region", "1-2", "--prompt", "on white", "--steps", 1, "--seed", 6, "--cfg", 1]
    made = call("retake", "--video", folder / "clip.mp4", *options, "-q", "-o", by_options)
    assert made.exit_code == 0, made.output
    assert frames_of(by_list) == frames_of(by_options)
    again = call("generate", "--from-file", by_list, "-q", "-o", folder / "again.mp4")
    assert again.exit_code == 0, again.output
    assert frames_of(folder / "again.mp4") == frames_of(by_list)


OF_RETAKE = {
    "another size": ({}, ["--width", "96"], "clip: width must be that of the source"),
    "an option of generate": ({}, ["--enhance-prompt"], "has no --enhance-prompt"),
    "its own source": ({}, ["-o", "clip.mp4"], "a run never replaces a file that it reads"),
}


@pytest.mark.parametrize("name", OF_RETAKE)
def test_what_a_retake_does_not_have_is_refused(folder: Path, monkeypatch, name: str) -> None:
    changes, more, message = OF_RETAKE[name]
    with VideoWriter(folder / "clip.mp4", width=64, height=64, fps=8) as writer:
        writer.write_frames(torch.zeros(17, 3, 64, 64))
    write(folder, source={"file": "clip.mp4"}, regions=[SECOND], **changes)
    monkeypatch.chdir(folder)
    refused = call("generate", "--shots", "shots.json", *more)
    assert refused.exit_code == 2, refused.output
    assert message in refused.output
    refused = call("long", "--shots", "shots.json", "--dry-run")
    assert refused.exit_code == 2
    assert "leave source and regions out" in refused.output


REFUSED = {
    "no file": ({}, ["--shots", "gone.json"], "no shot list at gone.json"),
    "a missing image": ({"images": [{"file": "gone.png"}]}, [], "gone.png"),
    "a time after the end": ({"images": [{"file": "first.png", "at": 9}]}, [], "shots.json: images 1, at: 9"),
    "a wrong size": ({"clip": {"width": 0}}, [], "--width 0"),
    "an unknown key": ({"colour": "red"}, [], "colour is no key"),
    "the output": (
        {"images": [{"file": "photo.webp"}]},
        ["-o", "photo.webp"],
        "a run never replaces a file that it reads",
    ),
    "a missing LoRA": ({"loras": [{"file": "gone.safetensors"}]}, [], "gone.safetensors"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_list_that_cannot_be_met_ends_with_exit_code_2(folder: Path, monkeypatch, name: str) -> None:
    changes, more, message = REFUSED[name]
    write(folder, **changes)
    monkeypatch.chdir(folder)
    arguments = more if "--shots" in more else ["--shots", "shots.json", *more]
    before = {path: path.read_bytes() for path in folder.iterdir()}
    refused = call("generate", *arguments)
    assert refused.exit_code == 2, refused.output
    assert message in refused.output
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_timeline_is_converted_and_its_result_is_generated_from(folder: Path) -> None:
    timeline = {
        "settings": {"frame_rate": 8, "duration_frames": 17},
        "timeline": {
            "segments": [
                {"start": 0, "length": 9, "prompt": "a red circle", "imageFile": "first.png"},
                {"start": 9, "length": 8, "prompt": "a blue square"},
            ],
            "overrideAudio": True,
        },
    }
    (folder / "director.json").write_text(json.dumps(timeline))
    made = call("shots", folder / "director.json", "-o", folder / "new.json")
    assert made.exit_code == 0, made.output
    assert "left out: the audio of the control videos" in made.output
    plan = call("generate", "--shots", folder / "new.json", "--width", "64", "--height", "64", "--dry-run")
    assert plan.exit_code == 0, plan.output
    assert "17 frames" in plan.output


def test_a_list_is_printed_and_a_wrong_one_is_refused(folder: Path) -> None:
    shown = call("shots", folder / "shots.json")
    assert json.loads(shown.stdout)["parts"] == PARTS
    (folder / "text.txt").write_text("a ball")
    refused = call("shots", folder / "text.txt")
    assert refused.exit_code == 2
    assert "text.txt: there is no part" in refused.output
