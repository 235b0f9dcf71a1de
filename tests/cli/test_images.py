"""Images and control videos as they are written: what each text means, and how a mistake is answered."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from PIL import Image

from ltx2_core.cli.image_options import image_fields, parse_control
from ltx2_core.cli.main import main
from ltx2_core.conditioning.inputs import ImageAt, VideoReference


@pytest.mark.parametrize(
    ("texts", "fields"),
    [
        (["a.png"], {"image": "a.png"}),
        (["a.png:0.5"], {"image": "a.png", "image_strength": 0.5}),
        (
            ["a.png", "b.png@-1:0.7"],
            {"image": "a.png", "images": (ImageAt(source="b.png", frame=-1, strength=0.7),)},
        ),
        (["b.png@40"], {"images": (ImageAt(source="b.png", frame=40),)}),
        (
            ["a.png@0", "b.png@8:1e-1"],
            {"images": (ImageAt(source="a.png"), ImageAt(source="b.png", frame=8, strength=0.1))},
        ),
        (["photo@2x.png"], {"image": "photo@2x.png"}),
        (["photo@2x.png@3"], {"images": (ImageAt(source="photo@2x.png", frame=3),)}),
        (["C:\\a.png:0.5"], {"image": "C:\\a.png", "image_strength": 0.5}),
        (["you@home/a.png"], {"image": "you@home/a.png"}),
    ],
)
def test_an_image_has_a_frame_and_a_strength(texts, fields):
    assert image_fields({"image": tuple(texts)}) == fields


def test_keyframe_is_an_image_with_a_frame():
    both = [image_fields({name: ("a.png@8:0.5",)}) for name in ("image", "images")]
    assert both[0] == both[1]


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("e.mp4", VideoReference(source="e.mp4")),
        ("e.mp4:0.8", VideoReference(source="e.mp4", strength=0.8)),
        ("e.mp4,scale=2", VideoReference(source="e.mp4", scale=2)),
        ("e.mp4:0.8,scale=2,every=4", VideoReference(source="e.mp4", strength=0.8, scale=2, every=4)),
        ("a,b.mp4", VideoReference(source="a,b.mp4")),
    ],
)
def test_a_control_video_has_a_strength_a_scale_and_a_step(text, reference):
    assert parse_control(text) == reference


MISTAKES = [
    (["--image", "a.png", "--image", "b.png"], ["--image a.png", "--image b.png", "@-1"]),
    (["--image", "a.png@end"], ["--image a.png@end", "'end' after @", "a.png@-1:0.7"]),
    (["--image", "a.png@1.5"], ["--image a.png@1.5", "whole number"]),
    (["--image", "a.png@-1:20"], ["--image a.png@-1:20", "from 0 to 10"]),
    (["--image", "a.png:7"], ["--image a.png:7", "from 0 to 1"]),
    (["--image", "@3"], ["--image @3"]),
    (["--image", "a.png:0.5", "--image-strength", "0.5"], ["--image a.png:0.5", "--image-strength"]),
    (["--image", "missing.png"], ["missing.png"]),
    (["--image", "missing.png@-1"], ["missing.png"]),
    (["--keyframe", "a.png"], ["--keyframe a.png", "end.png@-1"]),
    (["--control", "e.mp4,scale=x"], ["--control e.mp4,scale=x", "scale"]),
    (["--control", "e.mp4,every=0"], ["--control e.mp4,every=0", "every"]),
    (["--control", "e.mp4:30"], ["--control e.mp4:30", "from 0 to 10"]),
    (["--control", "missing.mp4"], ["missing.mp4"]),
    (["--fit", "pad"], ["--fit", "--image"]),
    (["--seeds", "8-1"], ["--seeds 8-1", "rise"]),
    (["--seeds", "1,x"], ["--seeds 1,x", "'x'"]),
    (["--seeds", "1,1"], ["--seeds 1,1", "twice"]),
    (["--seeds", "1-2", "--seed", "3"], ["--seeds", "--seed"]),
    (["--contact-sheet"], ["--contact-sheet", "--seeds"]),
    (["--prompts-file", "missing.txt"], ["--prompts-file", "--prompt"]),
    (["--sigmas", "1, 0.5", "--schedule", "clip"], ["--sigmas", "--schedule"]),
    (["--distilled", "--schedule", "clip"], ["--distilled", "--schedule"]),
]


@pytest.mark.parametrize(("words", "parts"), MISTAKES)
def test_a_mistake_names_what_was_written(words, parts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = CliRunner().invoke(main, ["generate", "--prompt", "x", *words, "-o", "x.mp4"])
    assert ran.exit_code in (1, 2), ran.output
    assert all(part in ran.output for part in parts), ran.output
    assert "Traceback" not in ran.output
    assert not list(tmp_path.iterdir())


SIZES = [
    # (size of the image, options, size of the clip) of the embedded set, whose clips have 128x128 pixels.
    ((1600, 900), [], "160x96"),
    ((900, 1600), [], "96x160"),
    ((1600, 900), ["--stages", "2"], "192x128"),
    ((33, 4000), [], "32x1408"),
    ((1600, 900), ["--width", "64"], "64x128"),
    ((1600, 900), ["--height", "96"], "128x96"),
    ((1600, 900), ["--width", "64", "--height", "96"], "64x96"),
    ((128, 128), [], "128x128"),
]


@pytest.mark.parametrize(("image", "words", "size"), SIZES)
@pytest.mark.parametrize("placed", ["", "@-1"])
def test_a_clip_has_the_shape_of_its_image_unless_a_size_is_written(image, words, size, placed, tmp_path):
    path = tmp_path / "wide.png"
    Image.new("RGB", image).save(path)
    command = ["generate", "--prompt", "x", "--image", f"{path}{placed}", "--frames", "9", *words]
    ran = CliRunner().invoke(main, [*command, "--dry-run"])
    assert ran.exit_code == 0, ran.output
    assert f"clip      {size}, 9 frames" in ran.output
    stated = f"size      {size}, the shape of {path} ({image[0]}x{image[1]})" in ran.output
    assert stated == all(word not in ("--width", "--height") for word in words)


def test_a_long_clip_has_the_shape_of_its_image_too(tmp_path):
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[274] = 6
    # Stored lying and displayed upright, as phones save photos.
    Image.new("RGB", (1600, 900)).save(path, exif=exif)
    command = ["long", "--prompts", "x", "--image", str(path), "--seconds", "1", "--dry-run"]
    assert "long      96x160" in CliRunner().invoke(main, command).output
