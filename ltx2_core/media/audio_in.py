"""Reads audio from any file that contains audio: WAV, MP3, FLAC, M4A, or the audio track of a video.

Letters: C channels (1 or 2), S samples.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .container import decode, open_media

LONGEST_GAP_S = 600
"""Longer gaps in the time stamps of audio are damage and not silence."""
SHORTEST_GAP_S = 0.1
"""Shorter ones are rounding of the container."""


def read_audio(
    path: str | os.PathLike[str], *, start_s: float = 0.0, duration_s: float | None = None
) -> tuple[Tensor, int]:
    """Decode the audio of a file: (waveform (C, S) float32, full scale at -1 and 1; sample rate in Hz).

    Mono and stereo audio is returned as such; more channels are mixed down to stereo. Time 0 is the start of
    the file: if the audio track begins later than the video, silence is put before the audio. ``start_s`` and
    ``duration_s`` (seconds; None is up to the end) select a part, exact to the sample; a part that reaches
    past the end is returned shorter.

    Raises FileNotFoundError for a missing file, ValueError for a file that is unreadable, has no audio, has
    no samples in the selected part, or has samples that are not finite, for ``start_s`` below 0 and for
    ``duration_s`` not above 0.
    """
    if not start_s >= 0:
        raise ValueError(f"start_s must be 0 or later; got {start_s}")
    if duration_s is not None and not duration_s > 0:
        raise ValueError(f"duration_s must be positive; got {duration_s}")
    return audio_from(path, start_s, duration_s)


def audio_from(
    path: str | os.PathLike[str], start_s: float, duration_s: float | None = None
) -> tuple[Tensor, int]:
    """As :func:`read_audio`, but ``start_s`` may be before the file, where there is silence."""
    with AudioReader(path) as reader:
        # Positions are in samples of the file's own rate, because seconds would be rounded twice.
        rate = reader.rate
        samples = reader.part(round(start_s * rate), None if duration_s is None else round(duration_s * rate))
    if samples.shape[1] == 0:
        raise ValueError(f"{path} has no audio from {start_s:g} s on; choose an earlier start")
    return samples, rate


class AudioReader:
    """A context manager that reads the audio of a file in parts; memory does not grow with the file's length.

    ``rate`` is the sample rate in Hz, ``channels`` is 1 or 2; both are 0 before the context is entered.
    Values of samples, time 0 and errors are those of :func:`read_audio`. If the parts are read in rising
    order, the file is decoded only once; a part that begins before the part read last makes the reader decode
    from the start again.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.rate = self.channels = 0
        self._stack = ExitStack()
        self._blocks: Iterator[tuple[int, NDArray[np.float32]]] = iter(())
        self._held: deque[tuple[int, NDArray[np.float32]]] = deque()
        self._first = self._end = 0

    def __enter__(self) -> AudioReader:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._held.clear()
        self._stack.close()

    def part(self, first: int, count: int | None = None) -> Tensor:
        """Read samples ``first`` to ``first + count - 1``, as (C, count) float32.

        Sample 0 is the start of the file. Fewer samples are returned at the end of the audio; ``count`` None
        reads up to the end.
        """
        if first < self._first:
            self._start()
        self._first, stop = first, None if count is None else first + count
        self._drop_before(first)
        try:
            while stop is None or self._end < stop:
                position, block = next(self._blocks)
                self._held.append((position, block))
                self._end = position + block.shape[1]
                self._drop_before(first)
        except StopIteration:
            pass
        except (av.error.FFmpegError, UnicodeError) as error:
            raise ValueError(f"cannot decode the audio in {self.path}: {error}") from error
        return torch.from_numpy(self._between(first, self._end if stop is None else min(stop, self._end)))

    def _start(self) -> None:
        """Open the file and go to its first sample."""
        self._held.clear()
        self._stack.close()
        self._first = self._end = 0
        try:
            container = self._stack.enter_context(open_media(self.path, "audio"))
            if not container.streams.audio:
                raise ValueError(f"{self.path} has no audio stream; use an audio file or a video with audio")
            # Of several languages the default one usually comes first, which players choose too.
            stream = container.streams.audio[0]
            if stream.codec_context is None:
                raise ValueError(
                    f"{self.path} has audio of a codec that PyAV cannot decode: convert it to AAC"
                )
            # The audio autoencoder takes stereo; a surround track is mixed by FFmpeg's standard matrix.
            self.rate, self.channels = int(stream.rate), min(int(stream.channels), 2)
            self._blocks = _blocks(container, stream, self.channels, self.rate)
        except (av.error.FFmpegError, UnicodeError) as error:
            raise ValueError(f"cannot decode the audio in {self.path}: {error}") from error

    def _drop_before(self, first: int) -> None:
        while self._held and self._held[0][0] + self._held[0][1].shape[1] <= first:
            self._held.popleft()

    def _between(self, first: int, stop: int) -> NDArray[np.float32]:
        """Return the samples ``first`` to ``stop - 1`` from the decoded blocks that are held in memory."""
        # Missing audio is silence, so that the rest stays in sync with the video.
        # Overlapping blocks do not add up: the later one replaces what is under it.
        samples = np.zeros((self.channels, max(stop - first, 0)), np.float32)
        for position, block in self._held:
            low, high = max(position, first), min(position + block.shape[1], stop)
            if high > low:
                samples[:, low - first : high - first] = block[:, low - position : high - position]
        if not np.isfinite(samples).all():
            raise ValueError(f"{self.path} holds NaN or infinite samples; export it again as 16-bit WAV")
        return samples


def has_audio(path: Path) -> bool:
    """Whether the file has an audio stream."""
    with open_media(path) as container:
        return bool(container.streams.audio)


def audio_end_s(path: Path) -> float | None:
    """Seconds from the start of a file to the end of its audio track; None without audio or time stamps.

    Nothing is decoded. Raises ValueError for a file that cannot be read.
    """
    with open_media(path) as container:
        if not container.streams.audio:
            return None
        stream = container.streams.audio[0]
        if stream.time_base is None:
            return None
        if stream.duration is not None:
            end = (stream.start_time or 0) + stream.duration
        else:
            # Matroska and WebM have the length of the whole file alone.
            ends = [p.pts + (p.duration or 0) for p in container.demux(stream) if p.pts is not None]
            if not ends:
                return None
            end = max(ends)
        return float(end * stream.time_base) - (container.start_time or 0) / av.time_base


def _blocks(
    container: Any, stream: Any, channels: int, rate: int
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield (number of the block's first sample, block (C, n) float32) for each decoded block of audio.

    ``container`` and ``stream`` are PyAV's. Samples are counted from the start of the file, at ``rate`` Hz;
    ``channels`` is 1 or 2.
    """
    # The rate stays that of the file: it is resampled once, later, to what the network takes.
    resampler = av.AudioResampler(format="fltp", layout="mono" if channels == 1 else "stereo", rate=rate)
    # Containers may begin at any time stamp, not only at 0.
    origin_s = (container.start_time or 0) / av.time_base
    position: int | None = None
    # None at the end makes the resampler return the samples that it still buffers.
    for frame in chain(decode(container, stream), (None,)):
        # Samples are continuous except for real gaps, because containers round the times of blocks.
        if position is None:
            if frame is None:
                return
            # The first block may begin later than the file, by any time.
            position = 0
            position += _gap(frame, origin_s, rate, position, shortest_s=0.0)
        elif frame is not None:
            position += _gap(frame, origin_s, rate, position, shortest_s=SHORTEST_GAP_S)
        for resampled in resampler.resample(frame):
            block = np.asarray(resampled.to_ndarray(), dtype=np.float32)
            yield position, block
            position += block.shape[1]


def _gap(frame: Any, origin_s: float, rate: int, position: int, *, shortest_s: float) -> int:
    """How many samples are missing between the end of the last block and the start of ``frame``.

    ``position`` is the number of the sample that follows the last block. ``frame`` is the next decoded audio
    frame of PyAV. ``origin_s`` is the time stamp of the file's start in seconds, ``rate`` the sample rate in
    Hz. Gaps below ``shortest_s`` seconds come from inexact time stamps and count as 0, and so do overlaps,
    gaps above ``LONGEST_GAP_S`` seconds and frames without a time.
    """
    if frame.time is None:
        return 0
    missing = round((frame.time - origin_s) * rate) - position
    return missing if shortest_s * rate <= missing <= LONGEST_GAP_S * rate else 0
