"""The editing commands on the embedded set: a file in, a file out, mistakes as messages."""

from __future__ import annotations

import av
import pytest
from click.testing import CliRunner

from ltx2_core.cli.main import main

from .edits import write_source


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_source(tmp_path_factory.mktemp("clip") / "clip.mp4")


def test_a_retake_leaves_a_file_of_the_same_length(clip, tmp_path):
    out = tmp_path / "again.mp4"
    command = ["retake", "--video", str(clip), "--prompt", "a ball", "--video-region", "1-1.5"]
    ran = CliRunner().invoke(main, [*command, "--steps", "1", "--cfg", "1", "-o", str(out)])
    assert ran.exit_code == 0, ran.output
    with av.open(str(out)) as file:
        assert sum(1 for _ in file.decode(video=0)) == 17
        assert file.streams.audio


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            ["retake", "--video", "CLIP", "--prompt", "x", "--video-region", "2-1"],
            "must start at 0 s or later",
        ),
        (["extend", "--video", "CLIP", "--prompt", "x"], "once"),
        (
            ["extend", "--video", "CLIP", "--prompt", "x", "--frames", "8", "--keep-frames", "25"],
            "--keep-frames 25",
        ),
        (["sound", "--prompt", "x"], "give --video"),
        (["long", "--prompts", "[", "--seconds", "9"], "JSON"),
        (["long", "--prompts", "x", "--seconds", "9", "--window-frames", "24"], "must be 8k"),
    ],
)
def test_a_mistake_is_a_message(clip, tmp_path, command, message):
    command = [str(clip) if word == "CLIP" else word for word in command]
    ran = CliRunner().invoke(main, [*command, "-o", str(tmp_path / "out.mp4")])
    assert ran.exit_code != 0
    assert message in ran.output
    assert not list(tmp_path.iterdir())
