"""Reads the frames of a video file with PyAV, by their numbers in the file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition

from .container import check_pixels, decode, open_media
from .deinterlace import deinterlaced
from .images import Colour
from .pixels import PixelFormat
from .stored import Stored
from .timeline import Timeline, timeline_of

_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""Codec -> the decoder that reads its alpha channel."""


@dataclass(frozen=True, kw_only=True)
class VideoFile:
    """The video stream of a file: the times of its frames, and how the frames become upright RGB.

    ``width`` and ``height`` are the size in pixels after rotation and with square pixels.
    """

    path: Path
    timeline: Timeline
    pixels: PixelFormat
    width: int
    height: int

    @classmethod
    def open(cls, path: Path, background: Colour) -> VideoFile:
        """Read the time stamps of a file and decode its first frame. Raises what ``read_video`` raises.

        Transparent pixels will be blended with ``background``, RGB in [0, 1].
        """
        with open_video(path) as (container, stream):
            try:
                # Containers may state another size and format than their packets, so that a decoded frame
                # decides.
                first = next(_decoded(container, stream))
                pixels = PixelFormat.of(path, stream, first, background)
                upright = pixels.rgb(first)
            except StopIteration:
                raise ValueError(f"{path} holds no video frame") from None
            except av.error.FFmpegError as error:
                raise ValueError(f"cannot decode the video in {path}: {error}") from error
        # A second opening, since demuxing starts where the decoder has stopped.
        timeline = _read_timeline(path)
        return cls(
            path=path,
            timeline=replace(timeline, notes=timeline.notes + pixels.notes),
            pixels=pixels,
            width=upright.shape[2],
            height=upright.shape[1],
        )

    def stored(self, wanted: int) -> Iterator[Stored]:
        """Yield stored frames in order from number ``wanted`` on, or from the last decodable frame before it.

        Decoding starts at the last frame at or before ``wanted`` that the file stores whole; numbers count
        from 0. Raises ValueError for a damaged file.
        """
        try:
            yield from self._decoded(wanted)
        except av.error.FFmpegError as error:
            raise ValueError(f"{self.path} is damaged: {error}; convert it again") from error

    def _decoded(self, wanted: int) -> Iterator[Stored]:
        # Deinterlacing a frame needs the one before it.
        wanted = max(wanted - self.pixels.interlaced, 0)
        # Without time stamps there is nothing to seek by, so that frames are counted from the start.
        if wanted and not self.timeline.by_count:
            with open_video(self.path) as (container, stream):
                if _seek(container, stream, int(self.timeline.times[wanted])):
                    frames = self._numbered(container, stream, wanted)
                    first = next(frames, None)
                    # A seek may land behind the frame where a container lists no keyframes.
                    if first is not None and first.number <= wanted:
                        yield first
                        yield from frames
                        return
        with open_video(self.path) as (container, stream):
            yield from self._numbered(container, stream, wanted)

    def _numbered(self, container: Any, stream: Any, wanted: int) -> Iterator[Stored]:
        """Decode frames and find their numbers in the file, counted from 0.

        Yields the last frame at or before number ``wanted``, and all frames that follow it. ``container`` and
        ``stream`` are PyAV's, and decoding starts at their current position.
        """
        number = -1
        held: Stored | None = None
        frames = _decoded(container, stream)
        for frame in deinterlaced(frames, stream) if self.pixels.interlaced else frames:
            untimed = self.timeline.by_count or frame.pts is None
            number = number + 1 if untimed else self.timeline.number_of(frame.pts)
            # The last frame before the wanted one may still be on the screen at its time.
            if held is not None and number > wanted:
                yield held
            held = Stored(number, partial(self.pixels.rgb, frame))
            if number > wanted:
                yield held
                held = None
        if held is not None:
            yield held


def _seek(container: Any, stream: Any, time: int) -> bool:
    """Go to the last frame at or before ``time`` ticks that the file stores whole.

    Returns False for containers that cannot seek, such as VOB.
    """
    try:
        # PyAV seeks backward by default.
        container.seek(time, stream=stream)
    except av.error.FFmpegError:
        return False
    return True


@contextmanager
def open_video(path: str | os.PathLike[str]) -> Iterator[tuple[Any, Any]]:
    """A context that opens a file with PyAV and yields its container and its first video stream.

    Cover images do not count as video. Raises what :func:`open_media` raises, and ValueError for a file
    without video that PyAV can decode, and for frames of more than ``MAX_PIXELS`` pixels.
    """
    with open_media(path, "video") as container:
        covers = [bool(stream.disposition & Disposition.attached_pic) for stream in container.streams.video]
        if all(covers):
            what = "no video but a cover image" if covers else "no video stream"
            raise ValueError(f"{path} has {what}; use a file with video")
        stream = container.streams.video[covers.index(False)]
        if stream.codec_context is None:
            raise ValueError(f"{path} has video of a codec that PyAV cannot decode: convert it to H.264")
        # Checked before any frame is decoded, since decoding is what takes the memory.
        check_pixels(path, stream.codec_context.width, stream.codec_context.height)
        # Slice threads alone, PyAV's default, use one core for files whose frames are one slice.
        stream.thread_type = "AUTO"
        yield container, stream


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    """Decode the video frames of a PyAV container from its current position on.

    VP8 and VP9 are decoded with their alpha channel if they have one.
    """
    own = _WITH_ALPHA.get(stream.codec_context.name)
    # Matroska writes the name of this tag in either case, depending on the muxer.
    tags = {name.lower(): text for name, text in stream.metadata.items()}
    decoder: Any = stream.codec_context
    if own is not None and tags.get("alpha_mode") == "1":
        # FFmpeg's own decoders leave the alpha channel of VP8 and VP9 out.
        decoder = av.CodecContext.create(own, "r")
    yield from decode(container, stream, decoder)


def _start_s(container: Any, stream: Any, packets: list[tuple[Any, Any, int]]) -> float:
    """The time stamp, in seconds, of the start of the file, from which times of audio and video count.

    ``packets`` are (pts, dts, duration) in ticks of all packets of the video ``stream``. For a file without
    audio the start is the time stamp of the first frame.
    """
    times = [pts for pts, _, _ in packets if pts is not None]
    if not container.streams.audio and times:
        return float(min(times) * stream.time_base)
    start_s = float(container.start_time or 0) / av.time_base
    if container.format.name == "avi" and times and packets[0][1] is not None:
        # AVI has no presentation times, and those made up for it are late by the delay of B-frames.
        start_s += float((min(times) - packets[0][1]) * stream.time_base)
    return start_s


def _with_late_start(ticks: list[int]) -> list[int]:
    """Return ``ticks``, the times of an AVI's frames, with a later first time if the stated one is too early.

    It is too early if the gap to the second time is longer than the median gap. It is then replaced by one
    median gap before the second time. Other times, and fewer than three, are returned unchanged.
    """
    times = np.unique(ticks)
    if len(times) < 3:
        return ticks
    # AVI has no start time: muxers hold the first frame by empty packets until the video begins.
    begins = int(times[1] - np.median(np.diff(times)))
    return [max(tick, begins) for tick in ticks]


def _packet_times(container: Any, stream: Any) -> tuple[list[tuple[Any, Any, int]], int | None]:
    """Read the packets of a stream: a list of (pts, dts, duration), and the largest pts of those with data.

    Times are in ticks. The largest pts is None if no packet has both data and a pts.
    """
    packets, last = [], None
    for packet in container.demux(stream):
        # Packets without data and time flush the decoder and are no frames.
        if packet.is_discard or not (packet.size or packet.pts is not None):
            continue
        packets.append((packet.pts, packet.dts, packet.duration or 0))
        if packet.size and packet.pts is not None:
            last = packet.pts if last is None else max(last, packet.pts)
    return packets, last


def _read_timeline(path: Path) -> Timeline:
    """Read the time stamps of a file's packets and make the time line of its frames; nothing is decoded."""
    with open_video(path) as (container, stream):
        try:
            packets, last_seen = _packet_times(container, stream)
        except av.error.FFmpegError as error:
            raise ValueError(f"{path} is damaged: {error}; convert it again") from error
        rates = (stream.average_rate, stream.guessed_rate)
        declared = [Fraction(rate) for rate in rates if rate]
        start_s, tick_s = _start_s(container, stream, packets), Fraction(stream.time_base)
        is_avi = container.format.name == "avi"
    ticks = [pts for pts, _, _ in packets]
    # One frame without a time makes all of them uncertain, so that they are counted instead.
    by_count = not ticks or None in ticks
    if by_count:
        ticks = [dts for _, dts, _ in packets]
    if not ticks or None in ticks:
        # Raw streams have no time stamps at all, and their declared rate is all there is.
        if not declared:
            raise ValueError(f"{path} declares no frame rate; read a single image with load_image")
        ticks, tick_s, start_s = list(range(len(packets))), 1 / declared[0], 0.0
        packets = [(None, None, 1)] * len(packets)
    if is_avi:
        ticks = _with_late_start(ticks)
    last_ticks = max(zip(ticks, (duration for _, _, duration in packets), strict=True))[1]
    if ticks != sorted(ticks):
        # Some containers state the distance to the next packet, which is not the next frame to be displayed.
        last_ticks = min(last_ticks, int(np.diff(sorted(ticks))[-1]))
    try:
        timeline = timeline_of(
            ticks, tick_s, start_s=start_s, last_ticks=last_ticks, declared=declared, by_count=by_count
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}; read a single image with load_image") from error
    repeated = 0 if by_count or last_seen is None else int((timeline.times > last_seen).sum())
    return replace(timeline, repeated=repeated)
