"""Audio that is read part by part is that of the whole, and is decoded once."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from ltx2_core.editing.audio_track import AUDIO_CHUNK_S, read_input_audio
from ltx2_core.media import read_audio
from ltx2_core.media.audio_in import AudioReader
from ltx2_core.shapes import ClipPlan

RATE = 16000
CODECS = {
    "wav": "pcm_s16le",
    "flac": "flac",
    "mp3": "libmp3lame",
    "m4a": "aac",
    "mkv": "aac",
    "ogg": "libopus",
}


def write(path, *, seconds: float = 3.0, start_s: float = 0.0, rate: int = RATE):
    rate = 48000 if path.suffix == ".ogg" else rate
    wave = np.random.default_rng(1).uniform(-0.5, 0.5, (2, round(seconds * rate))).astype(np.float32)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(CODECS[path.suffix[1:]], rate=rate, layout="stereo")
        block = av.AudioFrame.from_ndarray(wave, format="fltp", layout="stereo")
        block.sample_rate, block.time_base, block.pts = rate, Fraction(1, rate), round(start_s * rate)
        size = stream.codec_context.frame_size or 1024
        resampler = av.AudioResampler(format=stream.format, layout="stereo", rate=rate, frame_size=size)
        for part in [*resampler.resample(block), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path


class Counting(AudioReader):
    """A reader that counts how often it starts to decode."""

    starts = 0

    def _start(self) -> None:
        self.starts += 1
        super()._start()


@pytest.mark.parametrize("suffix", [*CODECS])
def test_parts_are_those_of_the_whole(tmp_path, suffix):
    path = write(tmp_path / f"a.{suffix}")
    whole, rate = read_audio(path)
    with Counting(path) as reader:
        assert (reader.rate, reader.channels) == (rate, 2)
        # Windows of a long clip overlap, so that each begins before the end of the one before.
        for first in range(0, 2 * rate, rate // 3):
            assert torch.equal(reader.part(first, rate // 2), whole[:, first : first + rate // 2])
        assert reader.starts == 1
        assert torch.equal(reader.part(100, 50), whole[:, 100:150])
        assert reader.starts == 2
        assert torch.equal(reader.part(rate), whole[:, rate:])
        assert reader.part(10 * rate, 100).shape == (2, 0)


def test_memory_holds_the_last_part_and_no_more(tmp_path):
    path = write(tmp_path / "a.wav", seconds=60)
    with AudioReader(path) as reader:
        held = []
        for first in range(0, 60 * RATE, RATE):
            reader.part(first, RATE)
            held.append(sum(block.shape[1] for _, block in reader._held))
    assert max(held) < 2 * RATE


def test_input_audio_of_a_long_clip_is_decoded_once(tmp_path, monkeypatch):
    path = write(tmp_path / "a.m4a", seconds=2.5 * AUDIO_CHUNK_S)
    opened = []
    monkeypatch.setattr(
        "ltx2_core.editing.audio_track.AudioReader", lambda p: opened.append(Counting(p)) or opened[-1]
    )
    clip = ClipPlan(width=32, height=32, frames=24 * 80 + 1, fps=24.0)
    chunks = list(read_input_audio(path, 1.0, clip))
    whole, _ = read_audio(path, start_s=1.0)
    joined = torch.cat(chunks, dim=1)
    assert [reader.starts for reader in opened] == [1]
    assert joined.shape[1] == round(clip.seconds * RATE)
    assert torch.equal(joined[:, : whole.shape[1]], whole)
    assert not joined[:, whole.shape[1] :].any()
