"""Small video files for tests, of any container and rate: a flash in the frames, a click in the audio."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

SIZE = (64, 48)
RATE = 48000
FLASH_S, CLICK_S = 1.5, 1.5

CODECS = {
    "mp4": ("libx264", "yuv420p", "aac"),
    "mkv": ("libx264", "yuv420p", "aac"),
    "webm": ("libvpx-vp9", "yuv420p", "libopus"),
    "mov": ("prores_ks", "yuv422p10le", "pcm_s16le"),
    "avi": ("mpeg4", "yuv420p", "pcm_s16le"),
    "ts": ("libx264", "yuv420p", "aac"),
    "gif": ("gif", "rgb8", None),
}
MORE_CODECS = {
    "mpg": ("mpeg2video", "yuv420p", "mp2"),
    "vob": ("mpeg2video", "yuv420p", "ac3"),
    "ogv": ("libtheora", "yuv420p", "libvorbis"),
    "wmv": ("wmv2", "yuv420p", None),
    "flv": ("libx264", "yuv420p", "aac"),
    "3gp": ("libx264", "yuv420p", "aac"),
    "m2ts": ("libx264", "yuv420p", "ac3"),
    "nut": ("ffv1", "yuv444p", "flac"),
    "y4m": ("wrapped_avframe", "yuv420p", None),
    "h264": ("libx264", "yuv420p", None),
}
"""Kinds of files that are tested at one rate."""


def has_encoder(name: str) -> bool:
    try:
        av.Codec(name, "w")
    except (ValueError, av.error.FFmpegError):
        return False
    return True


def write_clip(  # noqa: PLR0913 each is a property of a file that the table varies
    path: Path,
    times: Sequence[float],
    levels: Sequence[int],
    *,
    fps: Fraction | int = 30,
    codec: str | None = None,
    pix_fmt: str | None = None,
    options: dict[str, str] | None = None,
    tick: Fraction | None = None,
    audio_s: float | None = None,
    audio_start_s: float = 0.0,
    click_s: float = CLICK_S,
    size: tuple[int, int] = SIZE,
) -> Path:
    """Flat grey frames of ``levels`` at ``times`` seconds, with a click at ``click_s`` in the audio.

    Skips the test where an encoder is missing.
    """
    standard = {**CODECS, **MORE_CODECS}[path.suffix[1:]]
    codec, pix_fmt = codec or standard[0], pix_fmt or standard[1]
    for encoder in (codec, standard[2] if audio_s else None):
        if encoder and not has_encoder(encoder):
            pytest.skip(f"PyAV has no encoder {encoder}")
    tick = tick or 1 / Fraction(fps)
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=fps, options=options or {})
        video.width, video.height, video.pix_fmt = *size, pix_fmt
        video.time_base = video.codec_context.time_base = tick
        audio = None
        if audio_s and standard[2]:
            audio = container.add_stream(standard[2], rate=RATE, layout="stereo")
        for time, level in zip(times, levels, strict=True):
            pixels = np.full((size[1], size[0], 3), level, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = round(time / tick), tick
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None:
            _write_click(container, audio, audio_s, audio_start_s, click_s)
    return path


def _write_click(container, stream, seconds: float, start_s: float, click_s: float) -> None:
    wave = np.zeros((2, round(seconds * RATE)), np.float32)
    first = round((click_s - start_s) * RATE)
    wave[:, first : first + 4000] = 0.8 * np.sin(np.arange(4000) * 0.2 + 1.5)
    block = av.AudioFrame.from_ndarray(wave, format="fltp", layout="stereo")
    block.sample_rate, block.time_base, block.pts = RATE, Fraction(1, RATE), round(start_s * RATE)
    size = stream.codec_context.frame_size or 1024
    resampler = av.AudioResampler(format=stream.format, layout="stereo", rate=RATE, frame_size=size)
    for part in [*resampler.resample(block), *resampler.resample(None)]:
        container.mux(stream.encode(part))
    container.mux(stream.encode(None))


def flash_of(clip) -> float:
    """Seconds at which the clip first is bright."""
    bright = clip.read().mean(dim=(1, 2, 3)) > 0.6
    return int(bright.float().argmax()) / clip.fps


def click_of(clip) -> float:
    """Seconds at which its audio first is loud."""
    waveform, rate = clip.audio()
    return int((waveform[0].abs() > 0.2).float().argmax()) / rate


def flashing(times: Sequence[float]) -> list[int]:
    return [235 if FLASH_S - 1e-3 <= time < FLASH_S + 0.25 else 20 for time in times]


def write_image(path: Path, pixels: np.ndarray) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "1"})
        stream.height, stream.width, stream.pix_fmt = *pixels.shape[:2], "yuv444p"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def set_matrix(path: Path, abcd: list[int]) -> None:
    data, one = bytearray(path.read_bytes()), 0x00010000
    at = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (value * one for value in abcd)
    matrix = [a, b, 0, c, d, 0, 0, 0, 0x40000000]
    data[at : at + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
    path.write_bytes(data)
