"""Clips in: lazily, from any start, upright; and what is said of files that hold none."""

from __future__ import annotations

import av
import numpy as np
import pytest
import torch

from ltx2_core.media import VideoWriter, read_video, write_wav

LEVELS = torch.linspace(-0.9, 0.9, 30)


@pytest.fixture(scope="module")
def clip_path(tmp_path_factory):
    """30 flat frames at 10 fps, each brighter than the one before, with 3 s of audio."""
    path = tmp_path_factory.mktemp("clips") / "steps.mp4"
    with VideoWriter(path, width=64, height=32, fps=10, sample_rate=16000, crf=1) as writer:
        writer.write_frames(LEVELS[:, None, None, None].expand(-1, 3, 32, 64))
        writer.write_audio(
            torch.linspace(-0.5, 0.5, 48000).expand(2, -1) * torch.sin(torch.arange(48000) * 0.2)
        )
    return path


def levels(frames: torch.Tensor) -> torch.Tensor:
    return frames.mean(dim=(1, 2, 3)) * 2 - 1


def test_the_whole_clip_comes_in_order(clip_path):
    clip = read_video(clip_path)
    assert (clip.width, clip.height, clip.fps, clip.frame_count, clip.has_audio) == (64, 32, 10.0, 30, True)
    torch.testing.assert_close(levels(clip.read()), LEVELS, rtol=0, atol=0.02)


@pytest.mark.parametrize("start", [0, 1, 13, 29])
@pytest.mark.parametrize("max_frames", [None, 1, 4])
def test_a_part_starts_on_its_frame_and_has_its_length(clip_path, start, max_frames):
    clip = read_video(clip_path, start_s=start / 10, max_frames=max_frames)
    expected = LEVELS[start:] if max_frames is None else LEVELS[start : start + max_frames]
    assert clip.frame_count == len(expected)
    torch.testing.assert_close(levels(clip.read()), expected, rtol=0, atol=0.02)


def test_the_audio_of_a_part_begins_and_ends_with_it(clip_path):
    whole, _ = read_video(clip_path).audio()
    part, rate = read_video(clip_path, start_s=1.2, max_frames=5).audio()
    assert rate == 16000
    assert part.shape == (2, 8000)
    assert torch.equal(part, whole[:, 19200:27200])


def test_frames_are_decoded_one_at_a_time_and_again_on_each_call(clip_path):
    clip = read_video(clip_path)
    frames = clip.frames()
    first = next(frames)
    assert first.shape == (3, 32, 64)
    assert first.dtype == torch.uint8
    frames.close()
    assert torch.equal(next(clip.frames()), first)


def test_a_clip_filmed_upright_is_turned(tmp_path):
    path = tmp_path / "phone.mov"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        pixels = np.zeros((32, 64, 3), np.uint8)
        pixels[:, :32] = 255
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    _set_rotation(path)
    clip = read_video(path)
    frame = clip.read()[0]
    assert (clip.width, clip.height) == (32, 64)
    assert frame.shape == (3, 64, 32)
    # Turned clockwise by 90 degrees, the white left half is on top.
    assert frame[:, :28].mean() > 0.9
    assert frame[:, 36:].mean() < 0.1


def _set_rotation(path) -> None:
    """Write a clockwise quarter turn into the display matrix of the track header."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    one = 0x00010000
    turn = [0, one, 0, -one, 0, 0, 0, 0, 0x40000000]
    data[matrix : matrix + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in turn)
    path.write_bytes(data)


@pytest.mark.parametrize("content", [b"", b"words", b"\0\0\0\x18ftypisom" + b"\0" * 64])
def test_a_corrupt_file_is_named(tmp_path, content):
    (tmp_path / "broken.mp4").write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.mp4"):
        read_video(tmp_path / "broken.mp4")


def test_an_audio_file_is_not_a_clip(tmp_path):
    write_wav(tmp_path / "a.wav", torch.zeros(1, 1600), 16000)
    with pytest.raises(ValueError, match="no video stream"):
        read_video(tmp_path / "a.wav")


def test_a_missing_file_and_impossible_parts_are_refused(clip_path, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.mp4"):
        read_video(tmp_path / "none.mp4")
    with pytest.raises(ValueError, match="max_frames"):
        read_video(clip_path, max_frames=0)
    with pytest.raises(ValueError, match="start_s"):
        read_video(clip_path, start_s=-1)
    with pytest.raises(ValueError, match="earlier start"):
        read_video(clip_path, start_s=9).read()


def test_a_clip_without_audio_has_none(tmp_path):
    path = tmp_path / "mute.mp4"
    with VideoWriter(path, width=64, height=32, fps=10) as writer:
        writer.write_frames(torch.zeros(3, 3, 32, 64))
    clip = read_video(path)
    assert not clip.has_audio
    assert clip.audio() is None
