"""Files of every kind in which a white flash and a click are at the same second, written by FFmpeg."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

RATE = 48000
FLASH_S, FLASH_LENGTH_S, LENGTH_S = 1.0, 0.3, 2.0
SIZE = (64, 48)
CODECS = {
    "mp4": ("libx264", "yuv420p", "aac"),
    "mkv": ("libx264", "yuv420p", "libopus"),
    "webm": ("libvpx-vp9", "yuv420p", "libopus"),
    "mov": ("prores_ks", "yuv422p10le", "pcm_s16le"),
    "avi": ("mpeg4", "yuv420p", "pcm_s16le"),
    "ts": ("libx264", "yuv420p", "aac"),
    "gif": ("gif", "rgb8", None),
}


def even(fps: float | Fraction, start_s: float = 0.0) -> list[float]:
    """Times of frames at a constant rate, to ``LENGTH_S``."""
    return [start_s + float(n / Fraction(fps)) for n in range(round((LENGTH_S - start_s) * fps))]


PHONE = [n / 30 for n in range(24)] + [0.8 + n / 10 for n in range(12)]
SCREEN = [0.0, 0.1, 0.12, 0.14, 0.6, 1.0, 1.02, 1.04, 1.06, 1.2, 1.22, 1.3, 1.7, 1.8, 1.9]


@dataclass(frozen=True)
class Kind:
    """One kind of file: frames at ``times``, a click in the audio from ``audio_s`` on, ``tick`` units."""

    suffix: str
    times: Sequence[float] = field(default_factory=lambda: even(25))
    fps: Fraction | int = 25
    tick: Fraction | None = None
    options: dict[str, str] = field(default_factory=dict)
    audio_s: float = 0.0
    last_s: float = 0.04
    codecs: tuple[str, str, str | None] | None = None

    def write(self, folder: Path) -> Path:
        """Write the file and return its path; skips the test where PyAV has no such encoder."""
        writer: Callable[[Path], Path] = {"webp": self._webp, "folder": self._folder}.get(
            self.suffix, self._av
        )
        return writer(folder)

    @property
    def has_audio(self) -> bool:
        return bool((self.codecs or CODECS.get(self.suffix, (None, None, None)))[2])

    def _av(self, folder: Path) -> Path:
        codec, pix_fmt, audio_codec = self.codecs or CODECS[self.suffix]
        for name in filter(None, (codec, audio_codec)):
            if name not in av.codecs_available:
                pytest.skip(f"PyAV has no {name}")
        path, tick = folder / f"a.{self.suffix}", self.tick or 1 / Fraction(self.fps)
        with av.open(str(path), "w") as container:
            video = container.add_stream(codec, rate=self.fps, options=self.options)
            video.width, video.height, video.pix_fmt = *SIZE, pix_fmt
            video.time_base = video.codec_context.time_base = tick
            audio = container.add_stream(audio_codec, rate=RATE, layout="stereo") if audio_codec else None
            for time in self.times:
                frame = av.VideoFrame.from_ndarray(_grey(time), format="rgb24").reformat(format=pix_fmt)
                frame.pts, frame.time_base = round(time / tick), tick
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
            if audio is not None:
                self._click(container, audio)
        return path

    def _click(self, container, stream) -> None:
        wave = np.zeros((2, round((LENGTH_S - self.audio_s) * RATE)), np.float32)
        first = round((FLASH_S - self.audio_s) * RATE)
        wave[:, first : first + 4000] = 0.8 * np.sin(np.arange(4000) * 0.2 + 1.5)
        block = av.AudioFrame.from_ndarray(wave, format="fltp", layout="stereo")
        block.sample_rate, block.time_base = RATE, Fraction(1, RATE)
        block.pts = round(self.audio_s * RATE)
        size = stream.codec_context.frame_size or 1024
        resampler = av.AudioResampler(format=stream.format, layout="stereo", rate=RATE, frame_size=size)
        for part in [*resampler.resample(block), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))

    def _webp(self, folder: Path) -> Path:
        images = [Image.fromarray(_grey(time)) for time in self.times]
        ends = [*self.times, self.times[-1] + self.last_s]
        durations = [round(1000 * (after - before)) for before, after in pairwise(ends)]
        path = folder / "a.webp"
        images[0].save(path, save_all=True, append_images=images[1:], duration=durations, lossless=True)
        return path

    def _folder(self, folder: Path) -> Path:
        path = folder / "frames"
        path.mkdir()
        for number, time in enumerate(self.times):
            Image.fromarray(_grey(time)).save(path / f"frame{number}.png")
        return path


def _grey(time: float) -> np.ndarray:
    bright = FLASH_S - 1e-3 <= time < FLASH_S + FLASH_LENGTH_S
    return np.full((SIZE[1], SIZE[0], 3), 235 if bright else 20, np.uint8)


MS = Fraction(1, 1000)
KINDS = {
    **{suffix: Kind(suffix) for suffix in CODECS},
    "webp": Kind("webp"),
    "folder": Kind("folder", even(24), 24),
    **{
        f"{name} fps": Kind("mp4", even(Fraction(rate)), Fraction(rate))
        for name, rate in {
            "23.976": "24000/1001",
            "29.97": "30000/1001",
            "59.94": "60000/1001",
            "120": "120",
            "240": "240",
        }.items()
    },
    "b frames": Kind("mp4", options={"bf": "3", "g": "12"}),
    "b frames in avi": Kind("avi", options={"bf": "2", "g": "12"}),
    # The muxer makes room for the priming of these by holding the first frame.
    "mjpeg and aac in avi": Kind("avi", codecs=("mjpeg", "yuvj420p", "aac")),
    "mjpeg and mp3 in avi": Kind("avi", codecs=("mjpeg", "yuvj420p", "libmp3lame")),
    "phone": Kind("mp4", PHONE, 30, MS),
    "screen": Kind("mkv", SCREEN, 30, MS),
    "varying webp": Kind("webp", SCREEN),
    "varying gif": Kind("gif", SCREEN, 50, Fraction(1, 100)),
    "edit list": Kind("mp4", even(25, -0.4), 25, MS),
    "late video": Kind("mp4", even(25, 0.4), 25, MS),
    "late video in mkv": Kind("mkv", even(25, 0.4), 25, MS),
    "late audio": Kind("mp4", audio_s=0.3),
    "no durations": Kind("mkv", even(25), 25, MS, {"bf": "2"}),
}
