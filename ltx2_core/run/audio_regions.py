"""Puts generated audio into preserved audio, in the seconds that were regenerated.

Letters: C channels, S samples, T audio latents.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ..conditioning.patchify import audio_positions

FADE_S = 0.05
"""Seconds of the linear fades at the ends of a region."""


def with_regenerated(
    preserved: Tensor, new: Tensor, rate: int, regenerated: Tensor, *, fade_s: float = FADE_S
) -> Tensor:
    """Mix ``new`` (C, S) into ``preserved`` (C, S) where ``regenerated`` (T,) is True -> (C, S).

    ``regenerated`` has one value per audio latent; waveforms are at ``rate`` Hz. The result is as long as
    ``preserved``, whose samples outside of the regions are unchanged; ``new`` may be shorter or longer. The
    first and last ``fade_s`` seconds of a region are linear fades.
    """
    samples = preserved.shape[1]
    made = torch.zeros_like(preserved)
    made[:, : min(samples, new.shape[1])] = new[:, :samples]
    weight = torch.zeros(samples)
    spans = audio_positions(len(regenerated))[0, 0]
    for start, end in spans[regenerated].tolist():
        # The clip may be longer than its last audio latent, whose region then extends to the end.
        last = samples if end >= float(spans[-1, 1]) else round(end * rate)
        weight[round(start * rate) : last] = 1
    if fade_s:
        weight = _ramps(weight, round(fade_s * rate))
    # A lerp of weight 0 rounds, and preserved samples are exact.
    return torch.where(weight == 0, preserved, torch.lerp(preserved, made, weight))


def _ramps(weight: Tensor, length: int) -> Tensor:
    """Replace the steps of a weight (S,) of zeros and ones by linear ramps of ``length`` samples.

    The ramps lie inside the runs of ones. A run that reaches the start or the end of ``weight`` has none
    there.
    """
    # Replicated ends: a region at the start or the end of the clip has nothing to fade to there.
    padded = functional.pad(weight[None, None], (length, length), mode="replicate")
    # In float64, because float32 counts only to 2^24, six minutes at 48 kHz.
    sums = padded[0, 0].double().cumsum(0)
    # The moving average of a step is a ramp across it; scaled and clamped, its upper half lies inside the
    # ones.
    width = 2 * length + 1
    mean = (sums[width - 1 :] - torch.cat((sums.new_zeros(1), sums[:-width]))) / width
    return ((mean - 0.5) * 2).clamp(0, 1).float() * weight
