"""Writes video with audio: frames are encoded as they arrive, and the file gets its name only when complete.

Letters: N frames, H W pixel rows and columns, C channels, S samples.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from types import TracebackType
from typing import Any, BinaryIO

import av
from torch import Tensor

from ..formats import FRAGMENTED
from .atomic import explain, replacing
from .destination import Destination, stdout
from .encoder_thread import Check
from .encoding import Encoding, audio_encoding, video_encoding
from .priority import kept_priority
from .tracks import AudioTrack, VideoTrack


class VideoWriter:
    """A context manager that encodes a clip into a file, whose name decides the kind.

    ``write_frames`` and ``write_audio`` may be called any number of times in any order. Frames are encoded at
    once. Audio samples are buffered until frames reach their time, and samples after the last frame are
    dropped, so that the audio is never longer than the video; shorter audio is not padded.

    The file is written under a temporary name in the same folder and renamed to ``path`` when the block ends
    without an exception. On an exception the temporary file is removed and an old file at ``path`` stays.

    ``encoding`` holds the options of the encoder; ``crf`` alone may be passed in its place. Without
    ``sample_rate`` (Hz) the file has no audio. Raises ValueError for both ``encoding`` and ``crf``, and for
    sizes, rates or values that cannot be encoded; OSError (no permission, disk full, ...) with advice on what
    to do.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | Destination,
        *,
        width: int,
        height: int,
        fps: float | Fraction,
        sample_rate: int | None = None,
        metadata: Mapping[str, str] | None = None,
        crf: int | None = None,
        overwrite: bool = True,
        encoding: Encoding | None = None,
    ) -> None:
        if crf is not None and encoding is not None:
            raise ValueError("crf is a field of encoding: set it there, or leave encoding out")
        self.destination = Destination.of(path)
        fmt, chosen = self.destination.format, encoding or Encoding(crf=crf)
        video = None if self.destination.is_images else video_encoding(fmt, chosen)
        if video is None:
            raise ValueError(
                f"{self.destination} is no video file; use a Generation's save for images and audio"
            )
        # Encoders report a wrong size by a number alone, and only when the first frame arrives.
        video.check_size(width, height, float(fps))
        self._encoding = video
        self._audio_encoding = None if sample_rate is None else audio_encoding(fmt, chosen)
        if sample_rate is not None:
            if self._audio_encoding is None:
                raise ValueError(
                    f"{self.destination}: {fmt.suffixes[0]} holds no audio; leave sample_rate out"
                )
            codec = self._audio_encoding.codec
            if codec.rate_for(sample_rate) != sample_rate:
                raise ValueError(
                    f"{codec.title} has no sample rate of {sample_rate} Hz; resample to one of {codec.rates}"
                )
        self.destination.check(overwrite=overwrite)
        self.path = self.destination.path
        self.width, self.height = width, height
        self.fps = frame_rate(fps)
        self.sample_rate = sample_rate
        self._metadata = dict(metadata or {}) if fmt.tags else {}
        self._stack = ExitStack()
        self._video: VideoTrack | None = None
        self._audio: AudioTrack | None = None

    @property
    def frame_count(self) -> int:
        """How many frames are written so far."""
        return 0 if self._video is None else self._video.frame_count

    @property
    def sample_count(self) -> int:
        """How many audio samples are encoded so far."""
        return 0 if self._audio is None else self._audio.sample_count

    @property
    def takes_floats(self) -> bool:
        """Whether colours get more than 8 bits, so that float frames give a better file than uint8."""
        return self._encoding.deep

    def __enter__(self) -> VideoWriter:
        with ExitStack() as stack:
            container = stack.enter_context(open_output(self.destination, self._metadata))
            self._video = VideoTrack(
                container, self._encoding, width=self.width, height=self.height, fps=self.fps
            )
            if self.sample_rate is not None and self._audio_encoding is not None:
                self._audio = AudioTrack(container, self._audio_encoding, self.sample_rate)
            # Only when all tracks exist: an error before that closes and removes the file at once.
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            # Flushing may fail too, for example on a full disk, and must then remove the file.
            with self._stack:
                self._finish()
        else:
            self._stack.__exit__(kind, error, trace)

    def write_frames(self, frames: Tensor, *, check: Check | None = None) -> None:
        """Append frames (N, 3, H, W): uint8, or float in [-1, 1] (values outside are clipped).

        ``check`` is called before each frame and may raise to stop. Raises ValueError if H and W are not the
        size of the writer, and for NaN or infinite values.
        """
        video = self._open_video()
        if frames.ndim != 4 or frames.shape[1:] != (3, self.height, self.width):
            raise ValueError(
                f"frames must be (N, 3, {self.height}, {self.width}); got shape {tuple(frames.shape)}"
            )
        for frame in frames:
            if check is not None:
                check()
            # Frame by frame, so that no byte copy of all frames exists.
            video.encode(frame)
        self._encode_pending()

    def write_audio(self, waveform: Tensor) -> None:
        """Append samples (C, S), C 1 or 2, full scale at -1 and 1; mono samples are written to both channels.

        Raises ValueError if the writer was made without ``sample_rate``, for another shape, and for NaN or
        infinite samples.
        """
        self._open_video()
        if self._audio is None:
            raise ValueError("this file has no audio track; open the writer with sample_rate")
        self._audio.add(waveform)
        self._encode_pending()

    def _encode_pending(self) -> None:
        """Encode the buffered audio samples up to the end of the last frame written so far."""
        if self._audio is not None:
            # Computed from all frames so far, so that rounding does not add up.
            self._audio.encode(round(self.frame_count / self.fps * self._audio.rate))

    def _finish(self) -> None:
        video = self._open_video()
        if not video.frame_count:
            raise ValueError("no frames were written; a video holds at least one")
        self._encode_pending()
        # Encoders hold back frames and samples until they are flushed.
        video.finish()
        if self._audio is not None:
            self._audio.finish()

    def _open_video(self) -> VideoTrack:
        if self._video is None:
            raise ValueError("the writer is not open; use it in a with block")
        return self._video


@contextmanager
def open_output(destination: Destination, metadata: Mapping[str, str]) -> Iterator[Any]:
    """A context that opens a destination for writing with PyAV and yields the container.

    A file has a temporary name until the block succeeds. ``metadata`` are the tags of the file, texts by
    name.
    """
    fmt = destination.format
    with ExitStack() as stack:
        options = dict(fmt.options)
        target: Any
        if destination.is_stdout:
            target = stack.enter_context(_explained(destination))
            # An ordinary MP4 needs to seek back to write its index, and a pipe cannot.
            options = dict(FRAGMENTED) if fmt.name == "mp4" else options
        else:
            target = os.fspath(stack.enter_context(replacing(destination.path)))
        # The muxer is named, because the temporary name ends in .part and says nothing.
        container = av.open(target, "w", format=fmt.muxer, options=options)
        container.metadata.update(metadata if fmt.tags else {})
        try:
            yield container
        except BaseException:
            if isinstance(target, Pipe):
                target.end()
            # Writing the trailer of a broken file may fail too; the first error is the one to report.
            with suppress(av.error.FFmpegError, OSError):
                container.close()
            if isinstance(target, Pipe) and target.stop is not None:
                raise target.stop from None
            raise
        container.close()


def check_clip(destination: Destination, encoding: Encoding, *, width: int, height: int, fps: float) -> None:
    """Check, without writing a file, that a clip of this size in pixels and frame rate can be encoded.

    Raises ValueError, before any work, if the encoder refuses the clip, for example because it is too small.
    Images and audio files are not checked.
    """
    video = video_encoding(destination.format, encoding)
    if video is None or destination.is_images:
        return
    # The size that is written, not that of the clip: an odd size is cut and so no error.
    columns, rows = video.multiples
    width, height = width // columns * columns, height // rows * rows
    video.check_size(width, height, fps)
    trial = av.open(os.devnull, "w", format=destination.format.muxer)
    try:
        VideoTrack(trial, video, width=width, height=height, fps=frame_rate(fps))
        with kept_priority():
            trial.start_encoding()
    except (av.error.FFmpegError, ValueError) as error:
        title = video.codec.title
        raise ValueError(f"{title} cannot encode {width}x{height} at {fps:g} fps ({error})") from error
    finally:
        # A GIF without frames cannot be closed, which says nothing about one with frames.
        with suppress(av.error.FFmpegError):
            trial.close()


class Pipe:
    """Stdout as a file object for PyAV: bytes are written in order, without seeking.

    After Ctrl-C during a write all later bytes are discarded, and ``stop`` is the KeyboardInterrupt.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._ended = False
        self.stop: KeyboardInterrupt | None = None
        """What stopped the run while bytes were written."""

    def end(self) -> None:
        """Discard all bytes that are written from now on.

        Called after a failure: a reader of stdout that has stopped reading would block the end of the run.
        """
        self._ended = True

    def write(self, data: bytes) -> int:
        rest = memoryview(b"" if self._ended else data)
        try:
            while rest:
                # A file descriptor may take a part of the bytes.
                rest = rest[self._stream.write(rest) :]
        except KeyboardInterrupt as stop:
            # PyAV passes on errors of a file, and drops what is no Exception.
            # Closing the container writes its trailer, which must not block on the same reader again.
            self._ended, self.stop = True, stop
            raise OSError(errno.EINTR, "the run was stopped") from stop
        # Discarded bytes count as written, so that the muxer can finish.
        return len(data)


@contextmanager
def _explained(destination: Destination) -> Iterator[Pipe]:
    try:
        yield Pipe(stdout())
    except OSError as error:
        raise explain(error, destination.path) from error


def frame_rate(fps: float | Fraction) -> Fraction:
    """Convert a rounded frame rate to the exact one: 23.976 -> 24000/1001, 29.97 -> 30000/1001, 25.0 -> 25.

    A Fraction is returned unchanged. Raises ValueError unless 0 < fps <= 1000.
    """
    if not (math.isfinite(fps) and 0 < fps <= 1000):
        raise ValueError(f"fps must be above 0 and at most 1000; got {fps}")
    # A fraction is exact, and rounding it to a broadcast rate would change what the caller asked for.
    if isinstance(fps, Fraction):
        return fps
    # Broadcast rates are an integer times 1000/1001 and are usually written with three digits.
    broadcast = Fraction(round(fps * 1.001) * 1000, 1001)
    # A whole rate is meant as it is, although 24 is close to 24000/1001.
    if not float(fps).is_integer() and abs(fps - broadcast) < 1e-3:
        return broadcast
    return Fraction(fps).limit_denominator(1000)
