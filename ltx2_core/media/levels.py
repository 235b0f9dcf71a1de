"""How loud audio is: its peaks for drawing, and its levels in decibels of full scale."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

QUIETEST_DB = -120.0
"""Digital silence, which has no level, is given this one."""


@dataclass(frozen=True, kw_only=True)
class Levels:
    """``peaks`` in [0, 1], evenly spaced over ``seconds``; highest peak and root mean square in dB."""

    seconds: float
    peaks: tuple[float, ...]
    peak_db: float
    mean_db: float


def levels_of(waveform: Tensor, rate: int, *, columns: int = 240) -> Levels:
    """The levels of a ``waveform`` (C, S) at ``rate`` Hz; there are at most ``columns`` peaks."""
    loud = waveform.detach().float().cpu().abs().nan_to_num(0.0)
    if not loud.numel():
        return Levels(seconds=0.0, peaks=(), peak_db=QUIETEST_DB, mean_db=QUIETEST_DB)
    highest = loud.amax(dim=0)
    peaks = F.adaptive_max_pool1d(highest[None], min(columns, len(highest)))[0].clamp(max=1)
    mean = float(loud.double().square().mean().sqrt())
    return Levels(
        seconds=len(highest) / rate,
        peaks=tuple(round(one, 3) for one in peaks.tolist()),
        peak_db=_decibels(float(highest.max())),
        mean_db=_decibels(mean),
    )


def _decibels(level: float) -> float:
    """Decibels of full scale, to a tenth."""
    return round(max(QUIETEST_DB, 20 * math.log10(max(level, 1e-9))), 1)
