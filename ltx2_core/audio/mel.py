"""Mel front end: waveform to log-mel spectrogram.

Letters: B batch, C channels, S samples, T mel frames, M mel bins, K frequency bins.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..config import AudioVAEConfig
from .dsp import mel_filter_bank, resample_sinc
from .layers import without_autocast

LOG_FLOOR = 1e-5


def to_stereo(waveform: Tensor) -> Tensor:
    """waveform (B, C, S) -> (B, 2, S): one channel is repeated, of more than two the first two are kept."""
    channels = waveform.shape[-2]
    if channels == 0:
        raise ValueError("the waveform has no channels; one (mono) or two (stereo) are needed")
    return waveform.expand(-1, 2, -1) if channels == 1 else waveform[:, :2]


def resample(waveform: Tensor, rate: int, target: int) -> Tensor:
    """waveform (..., S) at ``rate`` Hz -> (..., ceil(S target / rate)) float32 at ``target`` Hz.

    Windowed sinc with the defaults of torchaudio, with which the audio autoencoder was trained.
    """
    if rate <= 0 or rate != int(rate):
        raise ValueError(f"the sample rate must be a whole number of Hz above 0; got {rate}")
    waveform = waveform.float()
    if rate == target:
        return waveform
    return resample_sinc(waveform, int(rate), target)


def log_mel(waveform: Tensor, config: AudioVAEConfig) -> Tensor:
    """waveform (B, C, S) in [-1, 1] at ``config.sample_rate`` -> log-mel (B, C, T, M).

    T = S // hop_length + 1. Natural logarithm of the mel-weighted magnitude (not power) of a centred
    short-time Fourier transform with a periodic Hann window, in float32. Raises ValueError for an empty
    waveform.
    """
    samples = waveform.shape[-1]
    if samples == 0:
        raise ValueError("the waveform is empty; at least one sample is needed")
    with without_autocast(waveform.device):
        # Reflection about the ends needs more samples than it adds: a shorter sound is followed by silence.
        padded = F.pad(waveform.float(), (0, max(0, config.n_fft // 2 + 1 - samples)))
        spectrum = torch.stft(
            rearrange(padded, "b c s -> (b c) s"),
            n_fft=config.n_fft,
            hop_length=config.hop_length,
            win_length=config.win_length,
            window=torch.hann_window(config.win_length, device=waveform.device),
            center=True,
            pad_mode="reflect",
            return_complex=True,
        )
        magnitude = rearrange(spectrum.abs(), "(b c) k t -> b c t k", b=waveform.shape[0])
        magnitude = magnitude[:, :, : samples // config.hop_length + 1]
        return (magnitude @ mel_filters(config).to(magnitude.device)).clamp(min=LOG_FLOOR).log()


def mel_filters(config: AudioVAEConfig) -> Tensor:
    """Triangular filters (K, M), Slaney scale and area normalisation, from mel_fmin to mel_fmax Hz."""
    return mel_filter_bank(
        frequencies=config.n_fft // 2 + 1,
        mel_bins=config.mel_bins,
        sample_rate=config.sample_rate,
        f_min=config.mel_fmin,
        f_max=config.mel_fmax,
    )


def with_noise_floor(waveform: Tensor, level_db: float, seed: int = 0) -> Tensor:
    """The sound (..., S) over white noise of ``level_db`` dB of full scale (RMS), the same at every call.

    Digital silence is unlike any recording: a model hears a sound better over such a floor.
    Raises ValueError for a level above 0 dB.
    """
    if not level_db <= 0:
        raise ValueError(f"level_db={level_db:g} must be 0 or below, such as -60")
    noise = torch.randn(waveform.shape, generator=torch.Generator().manual_seed(seed))
    return waveform + noise.to(waveform) * 10 ** (level_db / 20)
