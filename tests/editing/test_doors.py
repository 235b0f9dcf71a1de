"""Through every door by which footage comes in, flash and click stay at their second.

The doors are extend, retake, sound, the source of a long clip, and control or reference videos; the files are
those of ``media_files``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from ltx2_core import LTX2Pipeline
from ltx2_core.conditioning.inputs import Inputs, VideoReference
from ltx2_core.editing import Footage, FramesInFile, add_audio, extend, retake
from ltx2_core.media import read_video
from ltx2_core.run.inputs import _video_reference
from ltx2_core.shapes import ClipPlan, frames_of, latent_frames_of

sys.path.insert(0, str(Path(__file__).parents[1]))

from media_files import FLASH_S, KINDS, Kind

SOME = (
    *("mp4", "webm", "mov", "gif", "webp", "folder", "29.97 fps", "b frames in avi"),
    *("phone", "screen", "edit list", "late video", "late audio"),
)
"""Kinds for the doors that read as the others do and take longer."""
FEW = ("mp4", "mov", "gif", "folder", "phone", "edit list", "late audio")
"""Kinds for the doors that read through the same class as ``extend``."""


def and_slow(few, names):
    """Of ``names`` those that are not among ``few`` are marked slow."""
    return [pytest.param(name, marks=() if name in few else pytest.mark.slow) for name in names]


QUICK = {"steps": 1, "cfg": 1.0, "seed": 3}
CLICK_ROUNDING_S = 2e-3
"""Containers round the times of blocks, and lossy codecs blur the first samples of a click."""


@pytest.fixture(scope="module")
def pipeline(tiny_set) -> LTX2Pipeline:
    return LTX2Pipeline(tiny_set.checkpoint, text_encoder=tiny_set.text_encoder, keep_loaded=True)


@pytest.fixture(scope="module")
def file_of(tmp_path_factory):
    """The file of a kind, written once."""
    written: dict[str, Path] = {}

    def write(name: str) -> Path:
        if name not in written:
            written[name] = KINDS[name].write(tmp_path_factory.mktemp("kind"))
        return written[name]

    return write


def flash_of(frames: torch.Tensor) -> int:
    """The first bright frame of (N, 3, H, W) in [0, 1]."""
    bright = frames.flatten(1).mean(dim=1) > 0.6
    assert bright.any()
    return int(bright.float().argmax())


def click_of(waveform: torch.Tensor, rate: int, after_s: float = 0.0) -> float:
    """The second of the first loud sample of (channels, samples), ``after_s`` or later."""
    first = round(after_s * rate)
    return (first + int((waveform[0, first:].abs() > 0.2).float().argmax())) / rate


def assert_times(path: Path, kind: Kind, *, own_audio: bool = True, after_s: float = 0.0) -> None:
    """The flash and, ``after_s`` seconds or later, the click of the source are when they were."""
    clip = read_video(path)
    half_frame_s = 0.5 / clip.fps
    assert flash_of(clip.read()) / clip.fps == pytest.approx(FLASH_S, abs=half_frame_s + 1e-3)
    audio = clip.audio()
    assert audio is not None
    if kind.has_audio and own_audio:
        assert click_of(*audio, after_s) == pytest.approx(FLASH_S, abs=half_frame_s + CLICK_ROUNDING_S)


@pytest.mark.parametrize("name", [*KINDS])
def test_what_an_edit_reads(file_of, name):
    source = Footage.read(file_of(name))
    at = flash_of(source.frames[:]) / source.fps
    assert at == pytest.approx(FLASH_S, abs=0.5 / source.fps + 1e-3)
    if KINDS[name].has_audio:
        assert click_of(*source.audio) == pytest.approx(at, abs=0.5 / source.fps + CLICK_ROUNDING_S)


@pytest.mark.parametrize("name", and_slow(SOME, KINDS))
def test_extend(pipeline, file_of, tmp_path, name):
    source = Footage.read(file_of(name))
    edit = extend(pipeline, "x", source, frames=8, keep_frames=1, fade_frames=0, **QUICK)
    edit.save(tmp_path / "out.mp4")
    assert_times(tmp_path / "out.mp4", KINDS[name])
    assert read_video(tmp_path / "out.mp4").frame_count == len(source.frames) + 8


@pytest.mark.parametrize("name", and_slow(FEW, SOME))
def test_retake(pipeline, file_of, tmp_path, name):
    source = Footage.read(file_of(name))
    # At 10 fps a latent frame is 0.8 s, and the one of this region ends before the flash.
    region = [(0.1, 0.2)]
    edit = retake(pipeline, "x", source, video=region, audio=region, **QUICK)
    edit.save(tmp_path / "out.mp4")
    # The regenerated audio is of random weights, and may be as loud as the click.
    assert_times(tmp_path / "out.mp4", KINDS[name], after_s=0.4)


@pytest.mark.parametrize("name", and_slow(FEW, SOME))
def test_sound(pipeline, file_of, tmp_path, name):
    # ProRes, of which the packets are copied, fits no MP4.
    out = tmp_path / ("out.mov" if name == "mov" else "out.mp4")
    add_audio(pipeline, "x", Footage.read(file_of(name)), **QUICK).save(out)
    assert_times(out, KINDS[name], own_audio=False)


@pytest.mark.parametrize("name", [*KINDS])
def test_the_source_of_a_long_clip(file_of, name):
    source = FramesInFile.open(file_of(name))
    whole = source.part(0, source.frame_count)
    expected = FLASH_S * source.fps
    assert flash_of(whole) == pytest.approx(expected, abs=0.5 + 1e-3 * source.fps)
    first = flash_of(whole) - 2
    assert flash_of(source.part(first, 8)) == 2


@pytest.mark.parametrize("name", [*KINDS])
def test_a_control_or_reference_video(file_of, name):
    path = file_of(name)
    clip = read_video(path)
    frames = frames_of(latent_frames_of(clip.frame_count))
    seen = []

    class Codecs:
        loras = ()

        def encode_video(self, frames):
            seen.append(frames[:])

    plan = ClipPlan(width=64, height=64, frames=frames, fps=clip.fps)
    _video_reference(Codecs(), VideoReference(source=path), plan, Inputs())
    assert len(seen[0]) == frames
    assert flash_of(seen[0]) == pytest.approx(FLASH_S * clip.fps, abs=0.5 + 1e-3 * clip.fps)


@pytest.mark.parametrize(
    ("name", "fps", "warned"), [("mp4", 24, True), ("mp4", 25, False), ("folder", 30, False)]
)
def test_a_reference_of_another_rate_is_followed_with_a_warning(file_of, caplog, name, fps, warned):
    read_video(file_of(name)).warn_of_rate(fps)
    assert any("frame by frame, at 0.96 times its speed" in text for text in caplog.messages) == warned


def test_the_settings_of_an_edit_say_that_its_source_was_resampled(pipeline, file_of):
    for name, changed in (("phone", True), ("screen", True), ("varying gif", True), ("mp4", False)):
        source = Footage.read(file_of(name))
        notes = add_audio(pipeline, "x", source, **QUICK).settings.get("source_notes", [])
        assert any("resampled by time stamp" in note for note in notes) == changed
