"""Doubling the frame rate of a clip: twice the frames, the same audio, and what is refused."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner

from ltx2_core import LTX2Pipeline
from ltx2_core.cli.main import main
from ltx2_core.cli.repeat import settings_of
from ltx2_core.run.frame_rate import double_rate, open_temporal_upscaler
from ltx2_core.run.saved_latents import resume, save_latents

SMALL = {"width": 64, "height": 64, "num_frames": 17, "fps": 24.0, "steps": 1, "cfg": 1.0}


@pytest.fixture(scope="module")
def clip(tiny_set):
    pipeline = LTX2Pipeline(tiny_set.checkpoint, text_encoder=tiny_set.text_encoder, keep_loaded=True)
    return pipeline("a ball", **SMALL)


def test_a_clip_has_a_frame_between_every_two_and_its_own_audio(clip, temporal, tmp_path):
    doubled = double_rate(clip, temporal)
    assert (doubled.clip.frames, doubled.clip.fps) == (33, 48.0)
    assert doubled.latents.video.shape[2:] == (5, *clip.latents.video.shape[3:])
    length = doubled.latents.audio.shape[2]
    assert doubled.clip.audio_latents == length
    assert torch.equal(doubled.latents.audio, clip.latents.audio[:, :, :length])
    assert doubled.array().shape[0] == 33
    assert doubled.settings()["temporal_upscaler"] == "temporal.safetensors"
    # Saved latents are decoded to the same clip.
    path = save_latents(doubled, tmp_path / "x.mp4", folder=tmp_path)
    again = resume(path, clip.codecs)
    assert torch.equal(again.latents.video, doubled.latents.video)
    assert again.clip.fps == 48.0


def test_other_files_are_refused(tiny_set):
    with pytest.raises(
        ValueError, match="is a spatial x2 upscaler: doubling the frame rate needs a temporal"
    ):
        open_temporal_upscaler(tiny_set.upsampler)
    with pytest.raises(ValueError, match="is no latent upscaler but holds"):
        open_temporal_upscaler(tiny_set.checkpoint)


def test_the_command_line_doubles_the_rate_and_says_so(tiny_set, temporal, tmp_path):
    out = tmp_path / "out.mp4"
    words = ["generate", "--prompt", "a ball", "--checkpoint", str(tiny_set.checkpoint), "-o", str(out)]
    words += ["--text-encoder", str(tiny_set.text_encoder), "--temporal-upscaler", str(temporal)]
    words += [
        "--width",
        "64",
        "--height",
        "64",
        "--frames",
        "9",
        "--fps",
        "24",
        "--steps",
        "1",
        "--cfg",
        "1",
        "--stages",
        "1",
    ]
    planned = CliRunner().invoke(main, [*words, "--dry-run"])
    assert f"rate      doubled by {temporal}: 17 frames at 48 fps" in planned.output
    made = CliRunner().invoke(main, words)
    assert made.exit_code == 0, made.output
    assert "17 frames at 48 fps" in made.output
    assert settings_of(out)["clip"] == [64, 64, 17, 48.0]
    files = words[3:5] + words[7:9]
    again = CliRunner().invoke(main, ["generate", "--from-file", str(out), *files, "--dry-run"])
    assert "--temporal-upscaler temporal.safetensors, whose folder is not known" in again.output
