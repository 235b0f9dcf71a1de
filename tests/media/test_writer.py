"""What is written is what is read back, and a file appears whole or not at all."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import pytest
import torch

from ltx2_core.media import VideoWriter, frame_rate, read_audio, read_metadata, read_video, write_wav

AAC_FRAME = 1024


def tone(seconds: float, rate: int) -> torch.Tensor:
    time = torch.arange(round(seconds * rate)) / rate
    return 0.5 * torch.stack([torch.sin(2 * math.pi * 440 * time), torch.sin(2 * math.pi * 660 * time)])


def ramps(count: int, width: int = 64, height: int = 32) -> torch.Tensor:
    """Grey ramps in [-1, 1], one level brighter with each frame: (N, 3, H, W)."""
    base = torch.linspace(-0.9, 0.5, width).expand(count, 3, height, width)
    return base + torch.linspace(0, 0.4, count)[:, None, None, None]


def write_clip(path: Path, frames: torch.Tensor, fps: float = 24.0, **options) -> None:
    with VideoWriter(path, width=frames.shape[3], height=frames.shape[2], fps=fps, **options) as writer:
        writer.write_frames(frames)


@pytest.mark.parametrize(
    ("fps", "exact"), [(24, Fraction(24)), (23.976, Fraction(24000, 1001)), (25.0, Fraction(25))]
)
@pytest.mark.parametrize("rate", [16000, 24000, 48000])
def test_frames_size_rate_and_audio_come_back(tmp_path, fps, exact, rate):
    frames, path = ramps(9), tmp_path / "clip.mp4"
    waveform = tone(2, rate)
    with VideoWriter(path, width=64, height=32, fps=fps, sample_rate=rate, crf=10) as writer:
        writer.write_frames(frames)
        writer.write_audio(waveform)
    clip = read_video(path)
    assert (clip.width, clip.height, clip.frame_count) == (64, 32, 9)
    assert clip.fps == pytest.approx(float(exact), abs=1e-9)
    torch.testing.assert_close(clip.read() * 2 - 1, frames, rtol=0, atol=0.06)
    decoded, heard_rate = clip.audio()
    expected = round(9 / exact * rate)
    assert heard_rate == rate
    assert expected <= decoded.shape[1] < expected + AAC_FRAME
    assert (decoded[:, :expected] - waveform[:, :expected]).square().mean().sqrt() < 0.03
    match = [
        (decoded[:, 20 + lag : expected - 20 + lag] * waveform[:, 20 : expected - 20]).sum()
        for lag in range(-5, 6)
    ]
    assert torch.stack(match).argmax() == 5, "the audio is early or late"


def test_the_audio_track_ends_with_the_frames(tmp_path):
    path = tmp_path / "clip.mp4"
    write_args = {"width": 64, "height": 32, "fps": 24, "sample_rate": 48000}
    with VideoWriter(path, **write_args) as writer:
        writer.write_audio(tone(3, 48000))
        writer.write_frames(ramps(25))
        assert writer.sample_count == 25 * 2000
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert video.duration * video.time_base == Fraction(25, 24)
        assert float(audio.duration * audio.time_base) == pytest.approx(25 / 24, abs=1.5e-3)


def test_writing_in_pieces_and_in_any_order_gives_the_same_file(tmp_path):
    frames, waveform = ramps(10), tone(10 / 24, 24000)
    options = {"width": 64, "height": 32, "fps": 24, "sample_rate": 24000}
    with VideoWriter(tmp_path / "whole.mp4", **options) as writer:
        writer.write_frames(frames)
        writer.write_audio(waveform)
    with VideoWriter(tmp_path / "pieces.mp4", **options) as writer:
        for frame, samples in zip(frames.split(3), waveform.split(2500, dim=1), strict=True):
            writer.write_audio(samples)
            writer.write_frames(frame)
    whole, pieces = read_video(tmp_path / "whole.mp4"), read_video(tmp_path / "pieces.mp4")
    assert torch.equal(whole.read(), pieces.read())
    torch.testing.assert_close(whole.audio()[0], pieces.audio()[0])


def test_shorter_audio_stays_short_and_mono_goes_to_both_sides(tmp_path):
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, width=64, height=32, fps=24, sample_rate=24000) as writer:
        writer.write_frames(ramps(24))
        writer.write_audio(tone(0.5, 24000)[:1])
    decoded, _ = read_audio(path)
    assert decoded.shape[0] == 2
    torch.testing.assert_close(decoded[0], decoded[1], rtol=0, atol=1e-3)
    assert 12000 <= decoded.shape[1] < 12000 + AAC_FRAME


def test_metadata_comes_back_word_for_word(tmp_path):
    settings = json.dumps({"prompt": 'a "quoted" çedilla\nsecond line', "seed": 2**63, "long": "x" * 9000})
    write_clip(tmp_path / "clip.mp4", ramps(1), metadata={"ltx2": settings, "comment": "made by a test"})
    found = read_metadata(tmp_path / "clip.mp4")
    assert found["ltx2"] == settings
    assert found["comment"] == "made by a test"


def test_bytes_and_floats_give_the_same_frame(tmp_path):
    levels = torch.arange(0, 256, 4, dtype=torch.uint8).expand(2, 3, 32, 64)
    write_clip(tmp_path / "bytes.mp4", levels)
    write_clip(tmp_path / "floats.mp4", levels.float() / 127.5 - 1)
    assert torch.equal(read_video(tmp_path / "bytes.mp4").read(), read_video(tmp_path / "floats.mp4").read())


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 120, 40)])
def test_colours_survive_and_are_tagged(tmp_path, colour):
    frame = torch.tensor(colour, dtype=torch.uint8)[None, :, None, None].expand(1, 3, 32, 64)
    write_clip(tmp_path / "clip.mp4", frame, crf=5)
    shown = read_video(tmp_path / "clip.mp4").read()[0].mean(dim=(1, 2)) * 255
    torch.testing.assert_close(shown, torch.tensor(colour).float(), rtol=0, atol=4)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert int(container.streams.video[0].codec_context.colorspace) == 1


@pytest.mark.parametrize(
    ("fps", "exact"),
    [
        (23.976, Fraction(24000, 1001)),
        (23.98, Fraction(1199, 50)),
        (29.97, Fraction(30000, 1001)),
        (30000 / 1001, Fraction(30000, 1001)),
        (59.94, Fraction(60000, 1001)),
        (24, Fraction(24)),
        (12.5, Fraction(25, 2)),
        (1, Fraction(1)),
        (Fraction(50, 3), Fraction(50, 3)),
    ],
)
def test_frame_rates_are_exact(fps, exact):
    assert frame_rate(fps) == exact


@pytest.mark.parametrize("fps", [0, -1, math.nan, math.inf, 5000])
def test_impossible_frame_rates_are_refused(fps):
    with pytest.raises(ValueError, match="fps"):
        frame_rate(fps)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": 63}, "even"),
        ({"height": 0}, "even"),
        ({"sample_rate": 20000}, "20000"),
        ({"crf": 60}, "crf"),
    ],
)
def test_what_cannot_be_encoded_is_refused_before_the_file_is_created(tmp_path, change, words):
    options = {"width": 64, "height": 32, "fps": 24, "sample_rate": 24000} | change
    with pytest.raises(ValueError, match=words):
        VideoWriter(tmp_path / "clip.mp4", **options)
    assert not list(tmp_path.iterdir())


def breaking(path: Path, action) -> None:
    with VideoWriter(path, width=64, height=32, fps=24, sample_rate=24000) as writer:
        writer.write_frames(ramps(3))
        action(writer)


def interrupt(writer: VideoWriter) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("action", "error"),
    [
        (interrupt, KeyboardInterrupt),
        (lambda w: w.write_frames(torch.full((1, 3, 32, 64), math.nan)), ValueError),
        (lambda w: w.write_frames(torch.zeros(1, 3, 32, 32)), ValueError),
        (lambda w: w.write_frames(torch.zeros(1, 3, 32, 64, dtype=torch.int64)), ValueError),
        (lambda w: w.write_audio(torch.tensor([[0.0, math.inf]])), ValueError),
        (lambda w: w.write_audio(torch.zeros(6, 100)), ValueError),
    ],
    ids=["interrupt", "nan frame", "wrong size", "wrong dtype", "infinite audio", "six channels"],
)
def test_a_failure_leaves_the_old_file_and_no_other(tmp_path, action, error):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"the old film")
    with pytest.raises(error):
        breaking(path, action)
    assert path.read_bytes() == b"the old film"
    assert [file.name for file in tmp_path.iterdir()] == ["clip.mp4"]


def test_no_frames_is_an_error_and_no_file(tmp_path):
    with (
        pytest.raises(ValueError, match="no frames"),
        VideoWriter(tmp_path / "clip.mp4", width=64, height=32, fps=24),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_success_replaces_the_old_file_unless_overwriting_is_off(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"the old film")
    with pytest.raises(FileExistsError, match="exists"):
        write_clip(path, ramps(2), overwrite=False)
    write_clip(path, ramps(2))
    assert read_video(path).frame_count == 2


def test_a_file_has_the_usual_rights(tmp_path):
    (tmp_path / "usual").touch()
    write_clip(tmp_path / "clip.mp4", ramps(1))
    assert (tmp_path / "clip.mp4").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_missing_folder_and_a_folder_as_file_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="create it"):
        write_clip(tmp_path / "none" / "clip.mp4", ramps(1))
    with pytest.raises(IsADirectoryError, match="file name"):
        write_clip(tmp_path, ramps(1))


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0,
    reason="needs a user whom rights can stop, on a POSIX system",
)
def test_a_folder_without_rights_says_what_to_do(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="may not be written"):
        write_clip(tmp_path / "clip.mp4", ramps(1))


def test_audio_without_a_track_and_writing_outside_the_block_are_refused(tmp_path):
    writer = VideoWriter(tmp_path / "clip.mp4", width=64, height=32, fps=24)
    with pytest.raises(ValueError, match="with block"):
        writer.write_frames(ramps(1))
    with pytest.raises(ValueError, match="sample_rate"), writer:
        writer.write_audio(tone(0.1, 24000))


LIMITED = """
import resource, signal, sys, torch
from ltx2_core.media import VideoWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
with VideoWriter(sys.argv[1], width=128, height=128, fps=24, crf=1) as writer:
    writer.write_frames(torch.rand(20, 3, 128, 128) * 2 - 1)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the file size with POSIX rlimits")
def test_a_file_that_cannot_grow_is_reported_and_removed(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"the old film")
    run = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, timeout=1800
    )
    assert run.returncode == 1, run.stderr
    assert "size limit" in run.stderr.splitlines()[-1], run.stderr
    assert path.read_bytes() == b"the old film"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_is_reported_and_leaves_nothing_behind(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(tmp_path)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small file system is not permitted here")
    try:
        with pytest.raises(OSError, match="disk is full"):
            write_clip(tmp_path / "clip.mp4", torch.rand(40, 3, 128, 128) * 2 - 1, crf=1)
        assert not list(tmp_path.iterdir())
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize("channels", [1, 2])
def test_wav_comes_back_to_the_sixteenth_bit(tmp_path, channels):
    waveform = tone(0.3, 44100)[:channels]
    write_wav(tmp_path / "a.wav", waveform, 44100)
    decoded, rate = read_audio(tmp_path / "a.wav")
    assert rate == 44100
    torch.testing.assert_close(decoded, waveform, rtol=0, atol=1e-4)


def test_wav_refuses_what_is_not_audio(tmp_path):
    for bad in (torch.zeros(3, 10), torch.zeros(2, 0), torch.full((1, 4), math.nan)):
        with pytest.raises(ValueError, match="audio"):
            write_wav(tmp_path / "a.wav", bad, 16000)
    assert not list(tmp_path.iterdir())
