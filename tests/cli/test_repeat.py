"""A file repeats what made it, an edit and a long clip too; inputs that are gone or changed are named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import av
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from ltx2_core.cli.main import main
from ltx2_core.media import VideoWriter, read_metadata

QUICK = ["--steps", "1", "--seed", "3", "--quiet"]
MADE = {
    "extend": ["extend", "--video", "CLIP", "--seconds", "0.6", "--keep-frames", "9", "--stg", "1"],
    "retake": ["retake", "--video", "CLIP", "--video-region", "1-1.5", "--audio-region", "0-1", "--no-paste"],
    "sound": ["sound", "--video", "CLIP", "--ceiling-db", "-20", "--negative", "noise"],
    "long": [
        *("long", "--seconds", "4", "--fps", "8", "--width", "64", "--height", "64"),
        *("--window-frames", "17", "--overlap-frames", "16", "--adain", "0.5", "--video", "LONG"),
        *("--denoise", "0.5", "--reference", "0.5"),
    ],
}


def write_clip(path: Path, frames: int) -> Path:
    with VideoWriter(path, width=64, height=64, fps=8, sample_rate=48000) as writer:
        writer.write_audio(0.2 * torch.sin(torch.arange(frames * 6000) / 20)[None])
        noise = torch.rand(frames, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        writer.write_frames(noise * 2 - 1)
    return path


def decoded(path: Path) -> tuple[bytes, ...]:
    with av.open(str(path)) as file:
        frames = tuple(frame.to_ndarray(format="rgb24").tobytes() for frame in file.decode(video=0))
        file.seek(0)
        return frames + tuple(frame.to_ndarray().tobytes() for frame in file.decode(audio=0))


def ltx2(*words):
    ran = CliRunner().invoke(main, [str(word) for word in words])
    assert "Traceback" not in ran.output
    return ran


@pytest.fixture
def clips(tmp_path):
    return {"CLIP": write_clip(tmp_path / "clip.mp4", 17), "LONG": write_clip(tmp_path / "long.mp4", 40)}


@pytest.fixture(scope="module")
def extended(tmp_path_factory) -> Path:
    """A file that ``ltx2 extend`` made."""
    folder = tmp_path_factory.mktemp("extended")
    clip = write_clip(folder / "clip.mp4", 17)
    words = [clip if word == "CLIP" else word for word in MADE["extend"]]
    assert ltx2(*words, "--prompt", "a", *QUICK, "-o", folder / "first.mp4").exit_code == 0
    return folder / "first.mp4"


KINDS = [pytest.param(kind, marks=pytest.mark.slow) if kind in ("long", "extend") else kind for kind in MADE]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_an_edit_repeats_the_edit(kind, clips, tmp_path):
    words = [clips.get(word, word) for word in MADE[kind]]
    prompts = "--prompts" if kind == "long" else "--prompt"
    first, again, other = (tmp_path / name for name in ("first.mp4", "again.mp4", "other.mp4"))
    ran = ltx2(
        *words,
        prompts,
        "0: a [trigger]; 2: b" if kind == "long" else "a ball",
        *QUICK,
        "-o",
        first,
        *(["--trigger", "ball"] if kind == "long" else []),
    )
    assert ran.exit_code == 0, ran.output
    ran = ltx2(kind, "--from-file", first, "--quiet", "-o", again)
    assert ran.exit_code == 0, ran.output
    assert decoded(again) == decoded(first)
    tags = [json.loads(read_metadata(path)["ltx2"]) for path in (first, again)]
    assert tags[0] == tags[1]
    # From the command that made no edit, with a change.
    ran = ltx2("generate", "--from-file", first, "--seed", "4", "--quiet", "-o", other)
    assert ran.exit_code == 0, ran.output
    assert decoded(other) != decoded(first)
    assert json.loads(read_metadata(other)["ltx2"])["request"]["seed"] == 4


def test_a_source_that_has_moved_or_changed_is_named(clips, tmp_path):
    words = [clips.get(word, word) for word in MADE["retake"]]
    first, again = tmp_path / "first.mp4", tmp_path / "again.mp4"
    assert ltx2(*words, "--prompt", "a", *QUICK, "-o", first).exit_code == 0
    moved = clips["CLIP"].rename(tmp_path / "moved.mp4")
    for name, message in (("gone", "is gone"), ("other", "has changed")):
        if name == "other":
            shutil.copy(clips["LONG"], clips["CLIP"])
        ran = ltx2("retake", "--from-file", first, "-o", again)
        assert ran.exit_code == 2
        assert message in ran.output
        assert "clip.mp4" in ran.output
        assert not again.exists()
    ran = ltx2("retake", "--from-file", first, "--video", moved, "--quiet", "-o", again)
    assert ran.exit_code == 0, ran.output
    assert decoded(again) == decoded(first)


def test_images_and_control_videos_are_repeated_and_guarded(clips, photo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(photo, "a.png")
    size = ["--width", "64", "--height", "64", "--frames", "9", "--fps", "8", "--stages", "1"]
    inputs = ["--image", "a.png:0.9", "--image", "a.png@-1:0.5", "--control", "clip.mp4:0.5,every=2"]
    ran = ltx2("generate", "--prompt", "x", *inputs, "--fit", "stretch", *size, *QUICK, "-o", "first.mp4")
    assert ran.exit_code == 0, ran.output
    # From another folder: the names were relative.
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    ran = ltx2("generate", "--from-file", "../first.mp4", "--quiet", "-o", "again.mp4")
    assert ran.exit_code == 0, ran.output
    assert decoded(Path("again.mp4")) == decoded(tmp_path / "first.mp4")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes() + b"x")
    ran = ltx2("generate", "--from-file", "../first.mp4", "--quiet", "-o", "third.mp4")
    assert ran.exit_code == 2
    assert "a.png has changed" in ran.output
    assert (
        ltx2(
            "generate",
            "--from-file",
            "../first.mp4",
            "--quiet",
            "--image",
            photo,
            "--image",
            f"{photo}@-1",
            "-o",
            "third.mp4",
        ).exit_code
        == 0
    )


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["generate", "--width", "64"], ["made by ltx2 extend", "no --width"]),
        (["retake"], ["made by ltx2 extend", "ltx2 extend --from-file"]),
        (["long"], ["made by ltx2 extend"]),
        (["extend", "--resume"], ["--resume", "--from-file"]),
    ],
)
def test_a_file_is_not_repeated_by_another_command(words, parts, extended, tmp_path):
    ran = ltx2(*words, "--from-file", extended, "-o", tmp_path / "x.mp4")
    assert ran.exit_code == 2, ran.output
    assert all(part in ran.output for part in parts), ran.output
    assert not (tmp_path / "x.mp4").exists()


def test_a_dry_run_of_a_long_clip_lists_prompts_with_their_times_and_windows(tmp_path):
    words = ["long", "--seconds", "6", "--fps", "8", "--window-frames", "25", "--steps", "1", "--dry-run"]
    ran = ltx2(*words, "--prompts", "0: a ball; 2.5: a\tcube; 3: " + "long " * 100, "-o", tmp_path / "x.mp4")
    assert ran.exit_code == 0, ran.output
    assert "prompt    from 0 s, window 1: a ball\n" in ran.output
    assert "prompt    from 2.5 s, no window: a cube\n" in ran.output
    assert "prompt    from 3 s, windows 2-3: long long" in ran.output
    assert max(map(len, ran.stdout.splitlines())) < 300


@pytest.mark.parametrize("kind", list(MADE))
def test_a_dry_run_judges_and_prints_what_would_run(kind, clips, tmp_path):
    words = [clips.get(word, word) for word in MADE[kind]]
    prompts = "--prompts" if kind == "long" else "--prompt"
    before = sorted(tmp_path.iterdir())
    ran = ltx2(*words, prompts, "a ball", "--steps", "3", "--dry-run", "-o", tmp_path / "x.mp4")
    assert ran.exit_code == 0, ran.output
    for part in ("recipe", "seed      0", "LTX-2.3", "spatial x2", "3 steps", "peak"):
        assert part in ran.output, part
    assert ("window 1" if kind == "long" else str(clips["CLIP"])) in ran.output
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["extend", "--video", "missing.mp4", "--seconds", "1"], "missing.mp4"),
        (["extend", "--video", "CLIP", "--seconds", "1", "--keep-frames", "25"], "--keep-frames 25"),
        (
            [
                "extend",
                "--video",
                "CLIP",
                "--seconds",
                "1",
                "--keep-frames",
                "9",
                "--stages",
                "2",
                "--upscaler",
                "CLIP",
            ],
            "--upscaler",
        ),
        (["retake", "--video", "CLIP"], "nothing is to be regenerated"),
        (["sound", "--video", "CLIP", "--lora", "missing.safetensors"], "missing.safetensors"),
        (["sound", "--video", "CLIP", "--reference-audio", "missing.wav"], "missing.wav"),
    ],
)
def test_a_dry_run_refuses_what_a_run_refuses(words, message, clips, tmp_path):
    words = [clips.get(word, word) for word in words]
    for dry in ([], ["--dry-run"]):
        ran = ltx2(*words, "--prompt", "a", *dry, "-o", tmp_path / "x.mp4")
        assert ran.exit_code != 0
        if message != "--upscaler":
            assert message in ran.output, ran.output
        assert not (tmp_path / "x.mp4").exists()


def test_seeds_and_prompts_make_a_file_each_and_a_sheet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("# two\na [trigger] ball\n\na cube\n", encoding="utf-8")
    size = ["--width", "64", "--height", "64", "--frames", "9", "--steps", "1", "--quiet", "--cfg", "1"]
    run = ["--prompts-file", "prompts.txt", "--trigger", "red", "--seeds", "3,5", "--contact-sheet"]
    ran = ltx2("generate", *run, *size, "-o", "o.mp4")
    assert ran.exit_code == 0, ran.output
    names = ["o_01_seed3.mp4", "o_01_seed5.mp4", "o_02_seed3.mp4", "o_02_seed5.mp4"]
    assert sorted(path.name for path in tmp_path.glob("o_*")) == [*names, "o_sheet.png"]
    assert [Path(line).name for line in ran.stdout.split()] == ["o_sheet.png", *names]
    request = json.loads(read_metadata(names[1])["ltx2"])["request"]
    assert (request["prompt"], request["seed"]) == ("a red ball", 5)
    assert ltx2("generate", "--prompt", "a red ball", "--seed", "5", *size, "-o", "one.mp4").exit_code == 0
    assert decoded(Path("one.mp4")) == decoded(Path(names[1]))


def test_each_of_several_clips_is_compared_with_their_image(photo, tmp_path):
    size = ["--width", "64", "--height", "64", "--frames", "9", "--steps", "1", "--quiet", "--cfg", "1"]
    run = ["--prompt", "a ball", "--image", photo, "--seeds", "3,5", *size, "--stages", "1"]
    ran = ltx2("generate", *run, "-o", tmp_path / "o.mp4")
    assert ran.exit_code == 0, ran.output
    for seed in (3, 5):
        assert f"o_seed{seed}.mp4: seed {seed}\nimage     motion" in ran.stderr
    plan = ltx2("generate", *run[:4], *size, "--stages", "2", "--image-strength", "0.7", "--dry-run")
    assert f"{photo}: first frame, strength 0.7 and then 1" in plan.stdout
    assert "stage2_image_strength 1" in plan.stdout


def test_a_drawn_seed_is_said_and_repeats_the_clip(tmp_path):
    size = ["--prompt", "a", "--width", "64", "--height", "64", "--frames", "9", "--steps", "1", "--quiet"]
    ran = ltx2("generate", *size, "--seed", "-1", "-o", tmp_path / "a.mp4")
    seed = json.loads(read_metadata(tmp_path / "a.mp4")["ltx2"])["request"]["seed"]
    assert f"seed {seed}" in ran.stderr
    assert ltx2("generate", *size, "--seed", seed, "-o", tmp_path / "b.mp4").exit_code == 0
    assert decoded(tmp_path / "a.mp4") == decoded(tmp_path / "b.mp4")


@pytest.mark.slow
def test_a_long_clip_takes_images_at_frames_and_repeats_them(photo, tmp_path):
    words = [*MADE["long"][:-6], "--prompts", "a ball", *QUICK]
    plain, first, again, other = (tmp_path / f"{name}.mp4" for name in ("plain", "first", "again", "other"))
    own = shutil.copy(photo, tmp_path / "own.png")
    image = ["--image", f"{own}@24:0.8"]
    assert ltx2(*words, "-o", plain).exit_code == 0
    ran = ltx2(*words, *image, "-o", first)
    assert ran.exit_code == 0, ran.output
    assert decoded(first) != decoded(plain)
    ran = ltx2("long", "--from-file", first, "--quiet", "-o", again)
    assert ran.exit_code == 0, ran.output
    assert decoded(again) == decoded(first)
    Path(own).unlink()
    ran = ltx2("long", "--from-file", first, "-o", other)
    assert ran.exit_code == 2
    assert "own.png is gone" in ran.output
    image = ["--image", f"{photo}@24:0.8"]
    assert ltx2("long", "--from-file", first, *image, "--quiet", "-o", other).exit_code == 0
    assert decoded(other) == decoded(first)


@pytest.mark.slow
def test_the_background_of_transparent_images_is_a_colour_and_repeated(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGBA", (64, 64), (255, 0, 0, 60)).save("a.png")
    words = ["generate", "--prompt", "x", "--width", "64", "--height", "64", "--frames", "9", *QUICK]
    words += ["--stages", "1", "--image", "a.png", "--image", "a.png@-1"]
    for name, more in (("black", []), ("white", ["--background", "white"])):
        ran = ltx2(*words, *more, "-o", f"{name}.mp4")
        assert ran.exit_code == 0, ran.output
    assert decoded(Path("black.mp4")) != decoded(Path("white.mp4"))
    assert ltx2("generate", "--from-file", "white.mp4", "--quiet", "-o", "again.mp4").exit_code == 0
    assert decoded(Path("again.mp4")) == decoded(Path("white.mp4"))
