"""Video clips from files, decoded one frame at a time from any start and rotated upright.

Letters: N frames, H W pixel rows and columns.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from .audio_in import has_audio, read_audio
from .images import ITU_709


@dataclass(frozen=True, kw_only=True)
class VideoClip:
    """A part of a video file. It holds only the description; frames are decoded by :meth:`frames`.

    ``width`` and ``height`` are those of frames after rotation. The part begins at ``start_s`` seconds and
    has at most ``max_frames`` frames. ``frame_count`` is an estimate of its length, from the frame count or
    the duration that the file declares.
    """

    path: Path
    width: int
    height: int
    fps: float
    frame_count: int
    start_s: float
    max_frames: int | None
    has_audio: bool

    def frames(self) -> Iterator[Tensor]:
        """Yield frames (3, H, W) uint8 in order; every call decodes again from ``start_s``."""
        with _open_video(self.path) as (container, stream):
            if self.start_s > 0:
                container.seek(int(self.start_s / stream.time_base), stream=stream)
            # Half a frame of slack: a start on a frame's own time must not lose it to rounding.
            earliest = self.start_s - 0.5 / self.fps
            # Streams need not start at time 0; times are counted from their own start.
            origin = float((stream.start_time or 0) * stream.time_base)
            yielded = 0
            for frame in container.decode(stream):
                if frame.time is not None and frame.time - origin < earliest:
                    continue
                if self.max_frames is not None and yielded >= self.max_frames:
                    return
                yield _upright(frame)
                yielded += 1

    def read(self) -> Tensor:
        """All frames as (N, 3, H, W) float32 in [0, 1].

        Raises ValueError if there are none or the file is damaged.
        """
        try:
            frames = list(self.frames())
        except av.error.FFmpegError as error:
            raise ValueError(f"{self.path} is damaged: {error}; convert it again") from error
        if not frames:
            raise ValueError(f"{self.path} has no frame from {self.start_s:g} s on; choose an earlier start")
        return torch.stack(frames).float() / 255.0

    def audio(self) -> tuple[Tensor, int] | None:
        """Audio of the same part as (waveform (C, S), sample rate in Hz); None for a file without audio."""
        if not self.has_audio:
            return None
        duration_s = None if self.max_frames is None else self.max_frames / self.fps
        return read_audio(self.path, start_s=self.start_s, duration_s=duration_s)


def read_video(
    path: str | os.PathLike[str], *, max_frames: int | None = None, start_s: float = 0.0
) -> VideoClip:
    """Describe a part of a video file; only its first frame is decoded, to check the file and its size.

    Raises FileNotFoundError for a missing file, ValueError for one without readable video or frame rate.
    """
    if max_frames is not None and max_frames < 1:
        raise ValueError(f"max_frames must be at least 1; got {max_frames}")
    if not start_s >= 0:
        raise ValueError(f"start_s must be 0 or later; got {start_s}")
    file = Path(path)
    with _open_video(file) as (container, stream):
        try:
            first = _upright(next(container.decode(stream)))
        except StopIteration:
            raise ValueError(f"{file} holds no video frame") from None
        except av.error.FFmpegError as error:
            raise ValueError(f"cannot decode the video in {file}: {error}") from error
        fps = float(stream.average_rate or stream.guessed_rate or 0)
        if not fps > 0:
            raise ValueError(f"{file} declares no frame rate; read a single image with load_image")
        seconds = _duration_s(container, stream)
        declared = stream.frames or round(seconds * fps)
    # Half a frame of slack, as in VideoClip.frames.
    left = max(declared - math.ceil(start_s * fps - 0.5), 0)
    return VideoClip(
        path=file,
        width=first.shape[2],
        height=first.shape[1],
        fps=fps,
        frame_count=left if max_frames is None else min(left, max_frames),
        start_s=start_s,
        max_frames=max_frames,
        has_audio=has_audio(file),
    )


@contextmanager
def _open_video(path: Path) -> Iterator[tuple[Any, Any]]:
    if not path.is_file():
        raise FileNotFoundError(f"no video file at {path}")
    try:
        container = av.open(os.fspath(path))
    except (av.error.FFmpegError, UnicodeError) as error:
        raise ValueError(f"cannot read {path} as a video: {error}") from error
    with container:
        if not container.streams.video:
            raise ValueError(f"{path} has no video stream; read audio files with read_audio")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        yield container, stream


def _duration_s(container: Any, stream: Any) -> float:
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / av.time_base


def _upright(frame: Any) -> Tensor:
    """A decoded frame as (3, H, W) uint8, rotated by the file's display matrix."""
    # Older PyAV applies the frame's colour matrix only if source and target are both named.
    matrix = {"src_colorspace": "ITU709", "dst_colorspace": "ITU601"} if frame.colorspace == ITU_709 else {}
    # Older PyAV has no rotation attribute.
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    pixels = np.rot90(frame.to_ndarray(format="rgb24", **matrix), k=turns)
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).contiguous()
