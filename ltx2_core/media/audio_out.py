"""Writes audio files without video.

Letters: C channels, S samples.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction

import av
import numpy as np
import torch
from torch import Tensor

from .destination import Destination
from .encoding import Encoding, audio_encoding, check_encoding
from .tracks import AudioTrack, checked_audio
from .writer import open_output


def write_wav(path: str | os.PathLike[str], waveform: Tensor, rate: int) -> None:
    """Write a waveform (C, S), C 1 or 2, full scale at -1 and 1, at ``rate`` Hz to the file ``path``.

    The suffix .wav makes it a 16-bit WAV file; another suffix another kind, as in :func:`write_audio`. Values
    outside [-1, 1] are clipped. Raises ValueError for another shape, and for NaN or infinite samples.
    """
    write_audio(path, (waveform,), rate)


def write_audio(
    path: str | os.PathLike[str] | Destination,
    pieces: Iterable[Tensor],
    rate: int,
    *,
    metadata: Mapping[str, str] | None = None,
    encoding: Encoding | None = None,
) -> None:
    """Write consecutive ``pieces`` of audio (C, S) as one audio file, whose suffix decides the kind.

    Samples are as in :func:`write_wav`, at ``rate`` Hz; if the codec does not support this rate, they are
    resampled to 48000 Hz. ``metadata`` are tags, texts by name. ``encoding`` None is the default of the kind
    of file. Raises ValueError for audio or an encoding that cannot be written, and what
    :meth:`Destination.check` raises.
    """
    destination = Destination.of(path)
    destination.check_audio()
    chosen = encoding or Encoding()
    # Options are judged before the destination, so that a wrong option leaves no trace on the disk.
    check_encoding(destination.format, chosen, audio_alone=True)
    track_encoding = audio_encoding(destination.format, chosen)
    assert track_encoding is not None
    destination.check()
    with open_output(destination, metadata or {}) as container:
        track: AudioTrack | None = None
        target = track_encoding.codec.rate_for(rate)
        for piece in resampled(map(checked_audio, pieces), rate, target):
            # The first piece says how many channels there are, and a container takes no stream after its
            # header.
            if track is None:
                channels = piece.shape[0]
                track = AudioTrack(container, track_encoding, target, channels=channels)
            track.add(piece)
            track.encode()
        # Raised inside the context, so that the temporary file without samples is removed.
        if track is None or not track.sample_count:
            raise ValueError("the audio must be (1 or 2 channels, samples); it holds no samples")
        track.finish()


def resampled(pieces: Iterable[Tensor], rate: int, target: int) -> Iterator[Tensor]:
    """Resample consecutive pieces (C, S) from ``rate`` to ``target`` Hz, as one continuous signal.

    Equal rates leave the pieces unchanged.
    """
    if rate == target:
        yield from pieces
        return
    resampler: av.AudioResampler | None = None
    position = 0
    for piece in pieces:
        layout = "stereo" if piece.shape[0] == 2 else "mono"
        # One resampler for all pieces, since its filter reaches over their borders: a new one would click
        # there.
        if resampler is None:
            resampler = av.AudioResampler(format="fltp", layout=layout, rate=target)
        block = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(piece.detach().cpu().float().numpy()), format="fltp", layout=layout
        )
        block.sample_rate, block.time_base, block.pts = rate, Fraction(1, rate), position
        position += piece.shape[1]
        yield from (torch.from_numpy(frame.to_ndarray()) for frame in resampler.resample(block))
    if resampler is not None:
        # The filter holds back half its length, a few milliseconds, until it is flushed.
        yield from (torch.from_numpy(frame.to_ndarray()) for frame in resampler.resample(None))
