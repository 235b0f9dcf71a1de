"""A generation in a shell is one line, in a notebook a player with its settings."""

from __future__ import annotations

import base64
import re

import pytest
import torch

from ltx2_core import LTX2Pipeline
from ltx2_core.media import read_audio, read_video

SMALL = {"width": 64, "height": 64, "num_frames": 9, "fps": 8, "steps": 1, "cfg": 1, "stages": 1}


@pytest.fixture(scope="module")
def pipeline():
    return LTX2Pipeline.embedded(device="cpu", dtype=torch.float32, keep_loaded=True)


def test_the_line_has_size_length_seed_and_prompt(pipeline) -> None:
    clip = pipeline("a ball\n" + "that rolls " * 20, seed=7, **SMALL)
    line = repr(clip)
    assert "\n" not in line
    assert len(line) < 160
    for part in ("64x64", "9 frames at 8 fps", "seed 7", "a ball that rolls"):
        assert part in line


def test_a_notebook_plays_the_clip_and_shows_its_settings(pipeline, tmp_path) -> None:
    shown = pipeline("<b>a & b</b>", seed=7, **SMALL)._repr_html_()
    assert "<b>" not in shown
    assert "&lt;b&gt;a &amp; b&lt;/b&gt;" in shown
    assert re.search(r"<th[^>]*>seed</th><td[^>]*>7</td>", shown)
    path = tmp_path / "clip.mp4"
    path.write_bytes(base64.b64decode(re.search(r"src='data:video/mp4;base64,([^']+)'", shown)[1]))
    clip = read_video(path)
    assert (clip.width, clip.height, clip.frame_count, clip.has_audio) == (64, 64, 9, True)


def test_audio_alone_has_a_player_of_its_own(pipeline, tmp_path) -> None:
    clip = pipeline("a knock", seed=7, video=False, **SMALL)
    assert "audio, 1.12 s" in repr(clip)
    path = tmp_path / "clip.m4a"
    path.write_bytes(base64.b64decode(re.search(r"<audio controls src='data:audio/mp4;base64,([^']+)'", clip._repr_html_())[1]))
    assert read_audio(path)[0].shape[1] > 0


def test_a_clip_is_saved_with_the_options_of_the_command_line(pipeline, tmp_path) -> None:
    clip = pipeline("a ball", seed=7, **SMALL)
    clip.save(tmp_path / "a.mkv", video_codec="h265", pixel_format="yuv420p10", crf=12, audio_bitrate="96k")
    assert read_video(tmp_path / "a.mkv").frame_count == 9
    with pytest.raises(TypeError, match="codec"):
        clip.save(tmp_path / "b.mkv", codec="h265")
    with pytest.raises(ValueError, match="crf=99"):
        clip.save(tmp_path / "b.mkv", crf=99)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mkv"]
