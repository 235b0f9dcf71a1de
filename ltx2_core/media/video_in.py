"""Video clips from files at a constant rate, decoded one frame at a time from any start.

Letters: N frames, H W pixel rows and columns.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import torch
from torch import Tensor

from .audio_in import has_audio, read_audio
from .container import check_pixels, open_media
from .images import BLACK, Colour
from .pixels import PixelFormat
from .timeline import Timeline, timeline_of


@dataclass(frozen=True, kw_only=True)
class VideoClip:
    """A part of a video file. It holds only the description; frames are decoded by :meth:`frames`.

    ``width`` and ``height`` are those of frames after rotation, with square pixels. The part begins at
    ``start_s`` seconds and has ``frame_count`` frames, at most ``max_frames``, at a constant ``fps``: a file
    of variable rate is resampled by its time stamps, see :class:`~ltx2_core.media.timeline.Timeline`.
    ``notes`` say what was changed, one sentence each.
    """

    path: Path
    width: int
    height: int
    fps: float
    frame_count: int
    start_s: float
    max_frames: int | None
    has_audio: bool
    timeline: Timeline = field(repr=False)
    pixels: PixelFormat = field(repr=False)

    @property
    def notes(self) -> tuple[str, ...]:
        return self.timeline.notes

    @property
    def first_frame(self) -> int:
        """The number, in the whole clip, of this part's first frame."""
        return self.timeline.frame_at(self.start_s)

    def frames(self, first: int = 0, count: int | None = None) -> Iterator[Tensor]:
        """Yield frames (3, H, W) uint8 in order, ``count`` of them from ``first`` on.

        Every call decodes again, from the last keyframe before ``first``.
        """
        stop = self.frame_count if count is None else min(first + count, self.frame_count)
        offset = self.first_frame
        numbers = range(offset + first, offset + stop)
        if not numbers:
            return
        for attempt in ("seek", "whole"):
            with _open_video(self.path) as (container, stream):
                decoded = _numbered(container, stream, self.timeline, numbers[0], seek=attempt == "seek")
                start = next(decoded, None)
                # A seek may land behind the frame where a container lists no keyframes.
                if attempt == "seek" and (start is None or start[0] > self.timeline.stored(numbers[0])):
                    continue
                if start is not None:
                    yield from self._shown(start, decoded, numbers)
                return

    def _shown(
        self, start: tuple[int, Any], decoded: Iterator[tuple[int, Any]], numbers: range
    ) -> Iterator[Tensor]:
        """The clip's frames ``numbers``, from stored frames and their own numbers in order."""
        at, (held_number, held), pixels = numbers.start, start, None
        for number, frame in decoded:
            while at < numbers.stop and self.timeline.stored(at) < number:
                pixels = self.pixels.rgb(held) if pixels is None else pixels
                yield pixels
                at += 1
            if at >= numbers.stop:
                return
            held_number, held, pixels = number, frame, None
        # A file may end early; the frames after its last one are not made up.
        while at < numbers.stop and self.timeline.stored(at) <= held_number:
            pixels = self.pixels.rgb(held) if pixels is None else pixels
            yield pixels
            at += 1

    def read(self, first: int = 0, count: int | None = None) -> Tensor:
        """Frames as (N, 3, H, W) float32 in [0, 1]: all, or ``count`` of them from ``first`` on.

        Raises ValueError if there are none or the file is damaged.
        """
        try:
            frames = list(self.frames(first, count))
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
        return read_audio(self.path, start_s=self.timeline.zero_s + self.start_s, duration_s=duration_s)


def read_video(
    path: str | os.PathLike[str],
    *,
    max_frames: int | None = None,
    start_s: float = 0.0,
    background: Colour = BLACK,
) -> VideoClip:
    """Describe a part of a video file; only its time stamps are read, and its first frame is decoded.

    Transparent pixels are blended with ``background``, RGB in [0, 1]. Raises FileNotFoundError for a missing
    file, ValueError for one without readable video or frame rate, and for interlaced and HDR video.
    """
    if max_frames is not None and max_frames < 1:
        raise ValueError(f"max_frames must be at least 1; got {max_frames}")
    if not start_s >= 0:
        raise ValueError(f"start_s must be 0 or later; got {start_s}")
    file = Path(path)
    with _open_video(file) as (container, stream):
        try:
            first = next(container.decode(stream))
            pixels = PixelFormat.of(file, stream, first, background)
            upright = pixels.rgb(first)
        except StopIteration:
            raise ValueError(f"{file} holds no video frame") from None
        except av.error.FFmpegError as error:
            raise ValueError(f"cannot decode the video in {file}: {error}") from error
    timeline = _read_timeline(file)
    left = max(timeline.frame_count - timeline.frame_at(start_s), 0)
    return VideoClip(
        path=file,
        width=upright.shape[2],
        height=upright.shape[1],
        fps=timeline.fps,
        frame_count=left if max_frames is None else min(left, max_frames),
        start_s=start_s,
        max_frames=max_frames,
        has_audio=has_audio(file),
        timeline=timeline,
        pixels=pixels,
    )


@contextmanager
def _open_video(path: Path) -> Iterator[tuple[Any, Any]]:
    with open_media(path, "video") as container:
        if not container.streams.video:
            raise ValueError(f"{path} has no video stream; read audio files with read_audio")
        stream = container.streams.video[0]
        check_pixels(path, stream.codec_context.width, stream.codec_context.height)
        stream.thread_type = "AUTO"
        yield container, stream


def _read_timeline(path: Path) -> Timeline:
    """The time line from the time stamps of all packets; none of them is decoded."""
    with _open_video(path) as (container, stream):
        try:
            packets = [
                (packet.pts, packet.dts, packet.duration)
                for packet in container.demux(stream)
                if packet.size and not packet.is_discard
            ]
        except av.error.FFmpegError as error:
            raise ValueError(f"{path} is damaged: {error}; convert it again") from error
        declared = [
            None if rate is None else Fraction(rate) for rate in (stream.average_rate, stream.guessed_rate)
        ]
        start_s = (container.start_time or 0) / av.time_base
        ticks = [pts for pts, _, _ in packets]
        timed = bool(ticks) and None not in ticks
        if not timed:
            ticks = [dts for _, dts, _ in packets]
        if not ticks or None in ticks:
            rate = next((rate for rate in declared if rate), Fraction(0))
            if not rate:
                raise ValueError(f"{path} declares no frame rate; read a single image with load_image")
            return timeline_of(
                range(len(packets)), 1 / rate, start_s=0.0, last_ticks=1, declared=[rate], by_count=True
            )
        last_ticks = max(zip(ticks, (packet[2] or 0 for packet in packets), strict=True))[1]
        try:
            return timeline_of(
                ticks,
                Fraction(stream.time_base),
                start_s=start_s,
                last_ticks=last_ticks,
                declared=declared,
                by_count=not timed,
            )
        except ValueError as error:
            raise ValueError(f"{path}: {error}; read a single image with load_image") from error


def _numbered(
    container: Any, stream: Any, timeline: Timeline, frame: int, *, seek: bool
) -> Iterator[tuple[int, Any]]:
    """Stored frames with their numbers, from the last one at or before what ``frame`` of the clip shows."""
    wanted = timeline.stored(frame)
    if seek and wanted and not timeline.by_count:
        container.seek(int(timeline.times[wanted]), stream=stream)
    number, held = -1, None
    for decoded in container.decode(stream):
        untimed = timeline.by_count or decoded.pts is None
        number = number + 1 if untimed else timeline.number_of(decoded.pts)
        if number <= wanted:
            held = number, decoded
            continue
        if held is not None:
            yield held
            held = None
        yield number, decoded
    if held is not None:
        yield held
