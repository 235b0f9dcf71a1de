"""Audio from every common container, cut exactly to the sample."""

from __future__ import annotations

import math

import av
import numpy as np
import pytest
import torch

from ltx2_core.media import VideoWriter, read_audio, write_wav

RATE = 44100
CODECS = {"wav": "pcm_s16le", "flac": "flac", "mp3": "libmp3lame", "m4a": "aac", "ogg": "libopus"}


def tone(seconds: float, channels: int = 2, rate: int = RATE) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return np.stack([0.5 * np.sin(2 * math.pi * 440 * (n + 1) * time) for n in range(channels)]).astype(
        np.float32
    )


def encode(path, samples: np.ndarray, *, layout: str, rate: int = RATE) -> None:
    codec = CODECS[path.suffix[1:]]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        block = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=layout)
        block.sample_rate = rate
        resampler = av.AudioResampler(format=stream.format, layout=layout, rate=rate)
        for part in [*resampler.resample(block), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "m4a"])
@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_every_format_gives_the_audio_at_its_own_rate(tmp_path, suffix, layout):
    samples = tone(0.5, 1 if layout == "mono" else 2)
    encode(tmp_path / f"a.{suffix}", samples, layout=layout)
    decoded, rate = read_audio(tmp_path / f"a.{suffix}")
    assert rate == RATE
    assert decoded.dtype == torch.float32
    assert decoded.shape[0] == samples.shape[0]
    assert abs(decoded.shape[1] - samples.shape[1]) < 2400
    inner = slice(2000, 18000)
    loudness = decoded[:, inner].square().mean(dim=1).sqrt()
    torch.testing.assert_close(loudness, torch.full_like(loudness, 0.5 / math.sqrt(2)), rtol=0.1, atol=0)


@pytest.mark.parametrize("suffix", ["wav", "flac"])
@pytest.mark.parametrize(("start_s", "duration_s"), [(0.0, 0.1), (0.123, 0.2), (0.4, None), (0.4, 5.0)])
def test_a_part_is_cut_to_the_sample(tmp_path, suffix, start_s, duration_s):
    encode(tmp_path / f"a.{suffix}", tone(0.5), layout="stereo")
    whole, _ = read_audio(tmp_path / f"a.{suffix}")
    part, _ = read_audio(tmp_path / f"a.{suffix}", start_s=start_s, duration_s=duration_s)
    first = round(start_s * RATE)
    last = None if duration_s is None else first + round(duration_s * RATE)
    assert torch.equal(part, whole[:, first:last])


def test_surround_is_mixed_down_to_stereo(tmp_path):
    encode(tmp_path / "a.flac", tone(0.2, 6), layout="5.1")
    decoded, _ = read_audio(tmp_path / "a.flac")
    assert decoded.shape[0] == 2
    assert 0.05 < decoded.abs().max() <= 1


def test_full_scale_is_one(tmp_path):
    square = torch.ones(1, 800)
    square[:, ::2] = -1
    write_wav(tmp_path / "a.wav", square, 16000)
    decoded, _ = read_audio(tmp_path / "a.wav")
    torch.testing.assert_close(decoded, square, rtol=0, atol=1e-4)


def test_audio_that_begins_after_the_video_is_preceded_by_silence(tmp_path):
    path = tmp_path / "late.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        audio = container.add_stream("aac", rate=16000, layout="mono")
        for _ in range(10):
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))))
        container.mux(video.encode(None))
        block = av.AudioFrame.from_ndarray(tone(0.5, 1, 16000), format="fltp", layout="mono")
        block.sample_rate, block.pts = 16000, 8000
        container.mux(audio.encode(block))
        container.mux(audio.encode(None))
    decoded, _ = read_audio(path)
    assert decoded[:, :6800].abs().max() < 0.01
    assert decoded[:, 9200:15000].square().mean().sqrt() == pytest.approx(0.35, abs=0.05)
    part, _ = read_audio(path, start_s=0.25, duration_s=0.5)
    assert torch.equal(part, decoded[:, 4000:12000])
    silence, _ = read_audio(path, duration_s=0.25)
    assert torch.equal(silence, torch.zeros(1, 4000))


@pytest.mark.parametrize("content", [b"", b"RIFF", b"not audio at all" * 20])
def test_a_corrupt_file_is_named(tmp_path, content):
    (tmp_path / "broken.wav").write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.wav"):
        read_audio(tmp_path / "broken.wav")


def test_a_file_without_audio_is_refused(tmp_path):
    with VideoWriter(tmp_path / "mute.mp4", width=32, height=32, fps=10) as writer:
        writer.write_frames(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match="no audio stream"):
        read_audio(tmp_path / "mute.mp4")


def test_an_empty_track_and_a_start_past_the_end_say_so(tmp_path):
    with VideoWriter(tmp_path / "empty.mp4", width=32, height=32, fps=10, sample_rate=16000) as writer:
        writer.write_frames(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match=r"empty\.mp4"):
        read_audio(tmp_path / "empty.mp4")
    write_wav(tmp_path / "a.wav", torch.zeros(1, 1600), 16000)
    with pytest.raises(ValueError, match="earlier start"):
        read_audio(tmp_path / "a.wav", start_s=1)


def test_samples_that_are_not_finite_are_refused(tmp_path):
    samples = tone(0.1, 1)
    samples[0, 100] = np.nan
    with av.open(str(tmp_path / "nan.wav"), "w") as container:
        stream = container.add_stream("pcm_f32le", rate=RATE, layout="mono")
        block = av.AudioFrame.from_ndarray(samples, format="flt", layout="mono")
        block.sample_rate = RATE
        container.mux(stream.encode(block))
        container.mux(stream.encode(None))
    with pytest.raises(ValueError, match="NaN"):
        read_audio(tmp_path / "nan.wav")


def test_a_missing_file_and_impossible_parts_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.wav"):
        read_audio(tmp_path / "none.wav")
    write_wav(tmp_path / "a.wav", torch.zeros(1, 1600), 16000)
    with pytest.raises(ValueError, match="start_s"):
        read_audio(tmp_path / "a.wav", start_s=-1)
    with pytest.raises(ValueError, match="duration_s"):
        read_audio(tmp_path / "a.wav", duration_s=0)
