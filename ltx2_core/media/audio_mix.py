"""Pieces of audio files, placed in time and added to one track.

Letters: C channels, S samples.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .audio_in import read_audio
from .audio_out import resampled

RATE = 48_000
"""Sample rate in Hz of a mixed track."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Seconds ``start_s`` to ``end_s`` (None: the end) of a file, heard from second ``at_s`` of the track on.

    ``gain_db`` changes its loudness; it fades in and out linearly over ``fade_s`` seconds.
    """

    path: str | os.PathLike[str]
    at_s: float = 0.0
    start_s: float = 0.0
    end_s: float | None = None
    gain_db: float = 0.0
    fade_s: float = 0.0


def mix_pieces(pieces: Sequence[Piece], seconds: float) -> tuple[Tensor, int]:
    """Add ``pieces`` to a stereo track of ``seconds``; returns (waveform (2, S) float32, 48000 Hz).

    Where no piece is there is silence; what a piece has after the end of the track is cut. The sum is not
    limited. Raises what :func:`read_audio` raises for a file.
    """
    track = torch.zeros(2, round(seconds * RATE))
    for piece in pieces:
        room = seconds - piece.at_s
        length = room if piece.end_s is None else min(room, piece.end_s - piece.start_s)
        if length <= 0:
            continue
        waveform, rate = read_audio(piece.path, start_s=piece.start_s, duration_s=length)
        own = torch.cat(list(resampled([waveform], rate, RATE)), dim=1)
        own = own.expand(2, -1) if own.shape[0] == 1 else own[:2]
        first = round(piece.at_s * RATE)
        own = own[:, : track.shape[1] - first] * _envelope(own.shape[1], piece)[: track.shape[1] - first]
        track[:, first : first + own.shape[1]] += own
    return track, RATE


def _envelope(samples: int, piece: Piece) -> Tensor:
    """The factor of each of the ``samples`` samples of a piece: its gain, with ramps at both ends."""
    ramp = min(round(piece.fade_s * RATE), samples // 2)
    factors = torch.full((samples,), 10 ** (piece.gain_db / 20))
    if ramp:
        rise = torch.arange(1, ramp + 1) / (ramp + 1)
        factors[:ramp] *= rise
        factors[-ramp:] *= rise.flip(0)
    return factors
