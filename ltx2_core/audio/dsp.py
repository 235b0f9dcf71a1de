"""Resampling and mel filters: torchaudio's functions if they work, otherwise own ones with the same results.

Letters: S samples, K frequency bins, M mel bins.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..torchaudio_import import load_torchaudio, version

ZERO_CROSSINGS = 6
"""Zero crossings of the sinc on each side of an output sample; the window ends at the last one."""

ROLLOFF = 0.99
"""Cutoff of the low-pass filter as a fraction of the lower of the two Nyquist frequencies."""

_HZ_PER_MEL = 200 / 3
_LOG_FROM_HZ = 1000.0
_LOG_FROM_MEL = _LOG_FROM_HZ / _HZ_PER_MEL
_LOG_STEP = math.log(6.4) / 27


def resample_sinc(waveform: Tensor, rate: int, target: int) -> Tensor:
    """Resample a waveform (..., S) from ``rate`` to ``target`` Hz -> (..., ceil(S target / rate)).

    Filters and interpolates with a Hann-windowed sinc, in the dtype of the waveform.
    """
    # Without a working torchaudio the same results are computed here, so that it is no hard dependency.
    functional = load_torchaudio().functional
    if functional is None:
        return own_resample(waveform, rate, target)
    resampled: Tensor = functional.resample(waveform, rate, target)
    return resampled


def mel_filter_bank(
    *, frequencies: int, mel_bins: int, sample_rate: int, f_min: float, f_max: float
) -> Tensor:
    """Triangular mel filters (K, M) in float32 on the Slaney scale, each with an area of 1.

    K = ``frequencies`` bins from 0 Hz to half of ``sample_rate``; M = ``mel_bins`` from ``f_min`` to
    ``f_max`` Hz.
    """
    functional = load_torchaudio().functional
    if functional is None:
        return own_mel_filter_bank(
            frequencies=frequencies, mel_bins=mel_bins, sample_rate=sample_rate, f_min=f_min, f_max=f_max
        )
    filters: Tensor = functional.melscale_fbanks(
        n_freqs=frequencies,
        f_min=f_min,
        f_max=f_max,
        n_mels=mel_bins,
        sample_rate=sample_rate,
        norm="slaney",
        mel_scale="slaney",
    )
    return filters


def in_use() -> str:
    """Which implementation of resampling and mel filters is in use and why, as text for ``ltx2 doctor``."""
    functional, _, reason = load_torchaudio()
    return f"own functions ({reason})" if functional is None else f"torchaudio {version('torchaudio')}"


def own_resample(waveform: Tensor, rate: int, target: int) -> Tensor:
    """:func:`resample_sinc` without torchaudio, by band-limited interpolation (Smith and Gossett, 1984).

    y(j) = sum_i x(i) h(i / rate - j / target), with rates in Hz and h the windowed sinc. With gcd the common
    divisor of the rates, output j + target / gcd uses the same filter as output j, shifted by rate / gcd
    samples. So one strided convolution with target / gcd filters computes all outputs. Filters are computed
    in the dtype of the waveform, as in torchaudio, to get the same bits.
    """
    if rate == target:
        return waveform
    divisor = math.gcd(rate, target)
    # Reduced by their common divisor, since the number of filters is the target rate.
    rate, target = rate // divisor, target // divisor
    # The lower rate limits the band, so that downsampling does not alias.
    cutoff = ROLLOFF * min(rate, target)
    reach = math.ceil(ZERO_CROSSINGS * rate / cutoff)
    dtype, device = waveform.dtype, waveform.device
    inputs = torch.arange(-reach, reach + rate, dtype=dtype, device=device) / rate
    outputs = torch.arange(0, -target, -1, dtype=dtype, device=device) / target
    t = ((outputs[:, None] + inputs) * cutoff).clamp(-ZERO_CROSSINGS, ZERO_CROSSINGS)
    window = torch.cos(t * math.pi / (2 * ZERO_CROSSINGS)).square()
    angle = t * math.pi
    # The quotient is undefined at 0, where the sinc is 1.
    sinc = torch.where(angle == 0, 1, angle.sin() / angle)
    filters = sinc * (window * (cutoff / rate))

    *batch, samples = waveform.shape
    padded = F.pad(waveform.reshape(math.prod(batch), 1, samples), (reach, reach + rate))
    interleaved = F.conv1d(padded, filters[:, None], stride=rate).transpose(1, 2).flatten(1)
    # The length is computed in float32, as in torchaudio, so that both return equally many samples.
    length = math.ceil(torch.tensor(target * samples / rate, dtype=torch.float32).item())
    resampled = interleaved[:, :length]
    return resampled.reshape(*batch, resampled.shape[-1])


def own_mel_filter_bank(
    *, frequencies: int, mel_bins: int, sample_rate: int, f_min: float, f_max: float
) -> Tensor:
    """:func:`mel_filter_bank` without torchaudio, with the same arguments and result (K, M).

    K frequencies, M mel bins. Each triangle rises from the centre of the previous filter and falls to the
    centre of the next one.
    """
    # Integer division, as in torchaudio, so that the filters are the same bits at odd rates, too.
    hertz = torch.linspace(0, sample_rate // 2, frequencies)
    corners = _mel_to_hertz(torch.linspace(_hertz_to_mel(f_min), _hertz_to_mel(f_max), mel_bins + 2))
    left, right = corners[:-2], corners[2:]
    widths = corners.diff()
    rising = (hertz[:, None] - left) / widths[:-1]
    falling = (right - hertz[:, None]) / widths[1:]
    # Slaney's normalisation divides by the width, so that every filter has an area of 1.
    return torch.minimum(rising, falling).clamp(min=0) * (2 / (right - left))


def _hertz_to_mel(hertz: float) -> float:
    """Hz to Slaney's mel: linear below 1 kHz, logarithmic above, where 27 mel are a factor of 6.4."""
    if hertz < _LOG_FROM_HZ:
        return hertz / _HZ_PER_MEL
    return _LOG_FROM_MEL + math.log(hertz / _LOG_FROM_HZ) / _LOG_STEP


def _mel_to_hertz(mel: Tensor) -> Tensor:
    above = _LOG_FROM_HZ * torch.exp(_LOG_STEP * (mel - _LOG_FROM_MEL))
    return torch.where(mel >= _LOG_FROM_MEL, above, mel * _HZ_PER_MEL)
