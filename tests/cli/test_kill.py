"""A process that is killed costs at most what it was computing: the rest is resumed, bit for bit."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
import torch

from ltx2_core.media import read_audio, read_video
from ltx2_core.tiny import embedded_dir

sys.path.insert(0, str(Path(__file__).parents[1]))

from kill_points import ltx2, run, spread

from .edits import EXTEND, RETAKE, write_source

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork and no SIGKILL")

QUICK = ["--steps", "2", "--seed", "3", "--quiet"]
SMALL = ["--width", "64", "--height", "64", "--fps", "8"]
LONG = ["--prompts", "0-1.5: a red ball\n1.5: a blue square", "--seconds", "4", "--window-frames", "25"]
IC_LORA = embedded_dir() / "loras" / "ltx2-tiny-edges-ic-lora.safetensors"
COMMANDS = {
    "long": ["long", *LONG, "--overlap-frames", "16", *SMALL, *QUICK[:-1], "--adain", "0.5"],
    "generate": ["generate", "--prompt", "a ball", "--frames", "9", "--stages", "1", *SMALL, *QUICK],
    "extend": [*EXTEND, *QUICK],
    "retake": [*RETAKE, *QUICK],
    "sound": ["sound", "--video", "CLIP", "--prompt", "a knock", *QUICK],
    "sound by windows": [
        *("sound", "--video", "LONG", "--prompt", "a knock", "--window-frames", "17", *QUICK)
    ],
    # A dub has its own steps.
    "dub": ["dub", "--video", "CLIP", "--prompt", "hello", "--lora", "IC-LORA", "--seed", "3", "--quiet"],
}


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    from PIL import Image

    path = tmp_path_factory.mktemp("image") / "image.png"
    Image.radial_gradient("L").resize((128, 128)).convert("RGB").save(path)
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    write_source(folder / "long.mp4", frames=33)
    return write_source(folder / "source.mp4")


class Case:
    """A command, the folder that it works in, and the file that it makes undisturbed."""

    def __init__(self, name: str, clip: Path, folder: Path) -> None:
        self.name, self.folder = name, folder
        files = {"CLIP": clip, "LONG": clip.with_name("long.mp4"), "IC-LORA": IC_LORA}
        self.words = [files.get(word, word) for word in COMMANDS[name]]
        self.whole = folder / "whole.mp4"
        ran = run(ltx2, *self.words, "-o", self.whole, folder=folder / "whole")
        assert ran.code == 0, ran.output
        self.events = ran.events

    def survives(self, kill_at: int) -> None:
        """Kill at an event, resume as the program says, and compare with the undisturbed file."""
        where, out = self.folder / f"at{kill_at}", self.folder / f"at{kill_at}.mp4"
        killed = run(ltx2, *self.words, "-o", out, folder=where, kill_at=kill_at)
        name = f"{self.name} killed at {kill_at}, {self.events[kill_at]}"
        assert killed.code == -signal.SIGKILL, (name, killed.output)
        saved = any(where.rglob("*.latents.safetensors"))
        if saved:
            again = run(ltx2, self.words[0], "--resume", "-o", out, folder=where)
        else:
            more = ["--resume"] if any(where.rglob("*.windows")) else []
            again = run(ltx2, *self.words, *more, "-o", out, folder=where)
        assert again.code == 0, (name, again.output)
        assert not (saved and "step" in again.events), f"{name}: what is saved is not sampled again"
        assert same_clip(out, self.whole), name
        left = [path for path in where.rglob("*") if path.suffix in (".safetensors", ".windows")]
        assert not left, name


def same_clip(one: Path, other: Path) -> bool:
    """Whether two files have equal decoded frames and samples."""
    a, b = read_video(one), read_video(other)
    same = all(torch.equal(x, y) for x, y in zip(a.frames(), b.frames(), strict=True))
    return same and torch.equal(read_audio(one)[0], read_audio(other)[0])


@pytest.mark.parametrize(
    ("name", "events"),
    [
        # The last window has another prompt than the first.
        pytest.param("long", ("step", "write"), marks=pytest.mark.slow),
        pytest.param("generate", ("write",), marks=pytest.mark.slow),
        pytest.param("extend", ("decode",), marks=pytest.mark.slow),
        ("retake", ("encode audio",)),
        pytest.param("sound", ("decode audio",), marks=pytest.mark.slow),
        # Killed in the last window, when the others are finished.
        pytest.param("sound by windows", ("step", "decode audio"), marks=pytest.mark.slow),
        pytest.param("dub", ("step", "write", "decode audio", "encode"), marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_resumes_with_the_identical_clip(name, events, clip, tmp_path) -> None:
    case = Case(name, clip, tmp_path)
    last = {event: number for number, event in enumerate(case.events)}
    for event in events:
        case.survives(last[event])


WORK = {
    "text",
    "step",
    "upsample",
    "video in",
    "audio in",
    "decode",
    "decode audio",
    "encode",
    "encode audio",
}


@pytest.mark.slow
def test_an_interrupt_ends_each_phase_at_once_and_the_next_run_is_clean(image, tmp_path) -> None:
    words = ["generate", "--image", image, "--prompt", "a ball", "--frames", "9", "--stages", "2"]
    words += ["--width", "128", "--height", "128", "--fps", "8", *QUICK]
    whole = run(ltx2, *words, "-o", tmp_path / "whole.mp4", folder=tmp_path / "whole")
    assert whole.code == 0, whole.output
    firsts = {name: number for number, name in reversed(list(enumerate(whole.events))) if name in WORK}
    assert {"text", "step", "upsample", "decode", "decode audio", "encode", "video in"} <= firsts.keys()
    for name, at in firsts.items():
        where, out = tmp_path / f"at{at}", tmp_path / f"at{at}.mp4"
        stopped = run(ltx2, *words, "-o", out, folder=where, kill_at=at, after="interrupt")
        assert stopped.code > 0, name
        assert "Traceback" not in stopped.output, (name, stopped.output)
        assert not WORK & set(stopped.events[at + 1 :]), f"{name}: work continues after the interrupt"
        assert not out.exists()
        assert not list(tmp_path.glob(".*.part")), f"{name}: a partial file is left"
        saved = any(where.rglob("*.latents.safetensors"))
        assert saved == (name in ("decode", "decode audio", "encode", "encode audio")), name
        again = ["generate", "--resume", "--quiet"] if saved else words
        assert run(ltx2, *again, "-o", out, folder=where).code == 0, name
        assert same_clip(out, tmp_path / "whole.mp4"), name


@pytest.mark.slow
@pytest.mark.parametrize("name", list(COMMANDS))
def test_a_run_killed_at_twenty_points_resumes_with_the_identical_clip(name, clip, tmp_path) -> None:
    case = Case(name, clip, tmp_path)
    # Windows of audio are stored as those of a long clip, which has all twenty, and take twice as long.
    for kill_at in spread(case.events, 8 if name == "sound by windows" else 20):
        case.survives(kill_at)
