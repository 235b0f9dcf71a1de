"""Audio from any file that contains some: WAV, MP3, FLAC, M4A, or the audio track of a video.

Letters: C channels (1 or 2), S samples.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .container import open_media

LONGEST_GAP_S = 600
"""Longer gaps in the time stamps of audio are damage and not silence."""
SHORTEST_GAP_S = 0.1
"""Shorter ones are rounding of the container."""


def read_audio(
    path: str | os.PathLike[str], *, start_s: float = 0.0, duration_s: float | None = None
) -> tuple[Tensor, int]:
    """Decode to (waveform (C, S) float32, full scale at -1 and 1; sample rate of the file in Hz).

    Mono stays mono and stereo stereo; more channels are mixed down to stereo. Time 0 is the start of the
    file: if the audio track begins later than the video, silence is put before it. ``start_s`` and
    ``duration_s`` select a part, exact to the sample; a part that reaches past the end is returned shorter.

    Raises FileNotFoundError for a missing file, ValueError for one that is unreadable, has no audio, has no
    samples in the selected part, or has samples that are not finite.
    """
    if not start_s >= 0:
        raise ValueError(f"start_s must be 0 or later; got {start_s}")
    if duration_s is not None and not duration_s > 0:
        raise ValueError(f"duration_s must be positive; got {duration_s}")
    file = Path(path)
    try:
        with open_media(file, "audio") as container:
            if not container.streams.audio:
                raise ValueError(f"{file} has no audio stream; use an audio file or a video with audio")
            if container.streams.audio[0].codec_context is None:
                raise ValueError(f"{file} has audio of a codec that PyAV cannot decode: convert it to AAC")
            samples, rate = _decode(container, start_s, duration_s)
    except (av.error.FFmpegError, UnicodeError) as error:
        raise ValueError(f"cannot decode the audio in {file}: {error}") from error
    if samples.shape[1] == 0:
        raise ValueError(f"{file} has no audio from {start_s:g} s on; choose an earlier start")
    if not np.isfinite(samples).all():
        raise ValueError(f"{file} holds NaN or infinite samples; export it again as 16-bit WAV")
    return torch.from_numpy(samples), rate


def has_audio(path: Path) -> bool:
    """Whether the file has an audio stream."""
    with open_media(path) as container:
        return bool(container.streams.audio)


def _decode(container: Any, start_s: float, duration_s: float | None) -> tuple[NDArray[np.float32], int]:
    stream = container.streams.audio[0]
    rate, channels = int(stream.rate), min(int(stream.channels), 2)
    start = round(start_s * rate)
    stop = None if duration_s is None else start + round(duration_s * rate)
    pieces: list[NDArray[np.float32]] = []
    filled = start
    for position, block in _blocks(container, stream, channels, rate):
        # Missing audio becomes silence, so that the rest stays in sync with the video.
        silent_until = position if stop is None else min(position, stop)
        if silent_until > filled:
            pieces.append(np.zeros((channels, silent_until - filled), np.float32))
            filled = silent_until
        if stop is not None and position >= stop:
            break
        piece = block[:, max(start - position, 0) : None if stop is None else stop - position]
        pieces.append(piece)
        filled += piece.shape[1]
    return np.concatenate(pieces, axis=1) if pieces else np.zeros((channels, 0), np.float32), rate


def _blocks(
    container: Any, stream: Any, channels: int, rate: int
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield (index of the first sample from the file's start, block (C, n)) for each decoded block."""
    resampler = av.AudioResampler(format="fltp", layout="mono" if channels == 1 else "stereo", rate=rate)
    # Containers may begin at any time stamp, not only at 0.
    origin_s = (container.start_time or 0) / av.time_base
    position: int | None = None
    # None at the end makes the resampler return the samples that it still buffers.
    for frame in chain(container.decode(stream), (None,)):
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
    """Samples between ``position`` and the time of a block, 0 unless they are a gap in the recording."""
    if frame.time is None:
        return 0
    missing = round((frame.time - origin_s) * rate) - position
    return missing if shortest_s * rate <= missing <= LONGEST_GAP_S * rate else 0
