"""H.264 video with AAC audio, encoded as frames arrive and renamed to its path only when complete.

Letters: N frames, H W pixel rows and columns, C channels, S samples.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext, suppress
from fractions import Fraction
from types import TracebackType
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from .atomic import check_output, replacing
from .container import open_media
from .images import ITU_709, to_bytes, to_bytes_hwc
from .x264 import repeatable_options

AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
AAC_BIT_RATE = 192_000
STUDIO_RANGE = 1


class VideoWriter:
    """Context manager that streams a clip into an MP4 file.

    ``write_frames`` and ``write_audio`` may be called any number of times in any order. Frames are encoded
    immediately. Audio samples are buffered until the frames reach their time, and samples after the last
    frame are dropped, so that the audio is never longer than the video; shorter audio is left short.

    The file is written under a temporary name in the same folder and renamed to ``path`` when the block ends
    without an exception. On an exception the temporary file is removed and an old file at ``path`` remains.

    Raises ValueError for sizes, rates or values that cannot be encoded, and OSError (no permission, disk
    full, ...) with advice on what to do.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        width: int,
        height: int,
        fps: float | Fraction,
        sample_rate: int | None = None,
        metadata: Mapping[str, str] | None = None,
        crf: int = 18,
        overwrite: bool = True,
    ) -> None:
        # Chroma has half the rows and columns.
        if width < 2 or height < 2 or width % 2 or height % 2:
            raise ValueError(f"H.264 needs an even width and height; got {width}x{height}")
        if sample_rate is not None and sample_rate not in AAC_RATES:
            raise ValueError(f"AAC has no sample rate of {sample_rate} Hz; resample to one of {AAC_RATES}")
        if not 0 <= crf <= 51:
            raise ValueError(f"crf must be 0 (lossless) to 51; got {crf}, try 18")
        self.path = check_output(path, overwrite=overwrite)
        self.width, self.height = width, height
        self.fps = frame_rate(fps)
        self.sample_rate = sample_rate
        self.frame_count = 0
        self.sample_count = 0
        self._crf = crf
        self._metadata = dict(metadata or {})
        self._pending: deque[Tensor] = deque()
        self._stack = ExitStack()
        self._container: Any = None
        self._video: Any = None
        self._audio: Any = None

    def __enter__(self) -> VideoWriter:
        with ExitStack() as stack:
            temporary = stack.enter_context(replacing(self.path))
            # faststart moves the index to the front, for players that stream; the other flag allows any tag.
            options = {"movflags": "faststart+use_metadata_tags"}
            self._container = av.open(os.fspath(temporary), "w", format="mp4", options=options)
            stack.push(self._close)
            self._container.metadata.update(self._metadata)
            self._video = self._add_video()
            self._audio = None if self.sample_rate is None else self._add_audio(self.sample_rate)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            with self._stack:
                self._finish()
        else:
            self._stack.__exit__(kind, error, trace)

    def write_frames(self, frames: Tensor) -> None:
        """Append frames (N, 3, H, W): uint8, or float in [-1, 1] (values outside are clipped).

        Raises ValueError for another size, and for NaN or infinite values.
        """
        self._check_open()
        if frames.ndim != 4 or frames.shape[1:] != (3, self.height, self.width):
            raise ValueError(
                f"frames must be (N, 3, {self.height}, {self.width}); got shape {tuple(frames.shape)}"
            )
        for frame in frames:
            # Frame by frame, so that no byte copy of all frames exists.
            self._encode_frame(to_bytes(frame[None], first=self.frame_count)[0])
        self._encode_pending()

    def write_audio(self, waveform: Tensor) -> None:
        """Append samples (C, S), C 1 or 2, full scale at -1 and 1; mono is written to both channels.

        Raises ValueError if the writer was opened without ``sample_rate``, for another shape, and for NaN or
        infinite samples.
        """
        self._check_open()
        if self._audio is None:
            raise ValueError("this file has no audio track; open the writer with sample_rate")
        if waveform.ndim != 2 or waveform.shape[0] not in (1, 2):
            raise ValueError(f"audio must be (1 or 2 channels, samples); got shape {tuple(waveform.shape)}")
        samples = waveform.detach().to(device="cpu", dtype=torch.float32)
        if not torch.isfinite(samples).all():
            raise ValueError("the audio holds NaN or infinite samples; nothing was saved")
        self._pending.append(samples.expand(2, -1))
        self._encode_pending()

    def _add_video(self) -> Any:
        options = {"crf": str(self._crf), **repeatable_options()}
        stream = self._container.add_stream("libx264", rate=self.fps, options=options)
        stream.width, stream.height, stream.pix_fmt = self.width, self.height, "yuv420p"
        context = stream.codec_context
        # Players guess the colour matrix of untagged video from its size, which shifts the colours of some.
        context.color_primaries = context.color_trc = context.colorspace = ITU_709
        context.color_range = STUDIO_RANGE
        return stream

    def _add_audio(self, sample_rate: int) -> Any:
        stream = self._container.add_stream("aac", rate=sample_rate, layout="stereo")
        stream.bit_rate = AAC_BIT_RATE
        return stream

    def _encode_frame(self, frame: Tensor) -> None:
        video_frame = av.VideoFrame.from_ndarray(to_bytes_hwc(frame), format="rgb24")
        video_frame = video_frame.reformat(format="yuv420p", dst_colorspace="ITU709")
        video_frame.pts, video_frame.time_base = self.frame_count, 1 / self.fps
        self._container.mux(self._video.encode(video_frame))
        self.frame_count += 1

    def _encode_pending(self) -> None:
        """Encode the buffered samples up to the end of the last frame written."""
        if self.sample_rate is None:
            return
        sample_rate = self.sample_rate
        # Computed from all frames so far, so that rounding does not add up.
        until = round(self.frame_count / self.fps * sample_rate)
        while self._pending and self.sample_count < until:
            piece = self._pending.popleft()
            room = until - self.sample_count
            if piece.shape[1] > room:
                self._pending.appendleft(piece[:, room:])
                piece = piece[:, :room]
            if not piece.shape[1]:
                continue
            # PyAV needs contiguous samples, and a slice of stereo samples is not.
            samples = np.ascontiguousarray(piece.numpy())
            block = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
            block.sample_rate, block.time_base = sample_rate, Fraction(1, sample_rate)
            block.pts = self.sample_count
            self._container.mux(self._audio.encode(block))
            self.sample_count += piece.shape[1]

    def _finish(self) -> None:
        if not self.frame_count:
            raise ValueError("no frames were written; a video holds at least one")
        self._encode_pending()
        # Samples after the last frame are dropped, so that the audio is never longer than the video.
        self._pending.clear()
        # Encoders hold back frames and samples until they are flushed.
        self._container.mux(self._video.encode(None))
        if self._audio is not None:
            self._container.mux(self._audio.encode(None))

    def _close(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        container, self._container = self._container, None
        # Writing the trailer of a broken file may fail too; the first error is the one to report.
        with nullcontext() if error is None else suppress(av.error.FFmpegError):
            container.close()

    def _check_open(self) -> None:
        if self._container is None:
            raise ValueError("the writer is not open; use it in a with block")


def frame_rate(fps: float | Fraction) -> Fraction:
    """The exact rate that a rounded float means: 23.976 -> 24000/1001, 29.97 -> 30000/1001, 25.0 -> 25.

    Raises ValueError unless 0 < fps <= 1000.
    """
    if not (math.isfinite(fps) and 0 < fps <= 1000):
        raise ValueError(f"fps must be above 0 and at most 1000; got {fps}")
    if isinstance(fps, Fraction):
        return fps
    # Broadcast rates are an integer times 1000/1001 and are usually written with three digits.
    broadcast = Fraction(round(fps * 1.001) * 1000, 1001)
    # A whole rate is meant as it is, although 24 is close to 24000/1001.
    if not float(fps).is_integer() and abs(fps - broadcast) < 1e-3:
        return broadcast
    return Fraction(fps).limit_denominator(1000)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The metadata tags of a media file, including the ``metadata`` passed to ``VideoWriter``.

    Raises FileNotFoundError for a missing file, ValueError for one that is not a media file.
    """
    with open_media(path) as container:
        return dict(container.metadata)


def write_wav(path: str | os.PathLike[str], waveform: Tensor, rate: int) -> None:
    """Save a waveform (C, S), C 1 or 2, full scale at -1 and 1, as 16-bit WAV at ``rate`` Hz.

    Louder samples are clipped. Raises ValueError for another shape, and for NaN or infinite samples.
    """
    if waveform.ndim != 2 or waveform.shape[0] not in (1, 2) or not waveform.shape[1]:
        raise ValueError(f"audio must be (1 or 2 channels, samples); got shape {tuple(waveform.shape)}")
    samples = waveform.detach().to(device="cpu", dtype=torch.float32)
    if not torch.isfinite(samples).all():
        raise ValueError("the audio holds NaN or infinite samples; nothing was saved")
    # Clipped before the conversion, which would wrap louder samples around.
    words = (samples.clamp(-1.0, 1.0) * 32767.0).round().to(torch.int16)
    layout = "stereo" if waveform.shape[0] == 2 else "mono"
    packed = np.ascontiguousarray(words.T.reshape(1, -1).numpy())
    with (
        replacing(check_output(path)) as temporary,
        av.open(os.fspath(temporary), "w", format="wav") as container,
    ):
        stream = container.add_stream("pcm_s16le", rate=rate, layout=layout)
        block = av.AudioFrame.from_ndarray(packed, format="s16", layout=layout)
        block.sample_rate = rate
        container.mux(stream.encode(block))
        container.mux(stream.encode(None))
