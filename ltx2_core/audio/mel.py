"""Mel front end: waveform to log-mel spectrogram.

Letters: B batch, C channels, S samples, T mel frames, M mel bins, K frequency bins.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..config import AudioVAEConfig
from ..precision import NO_COMPLEX
from .dsp import mel_filter_bank, resample_sinc
from .layers import in_float32

LOG_FLOOR = 1e-5
"""The smallest magnitude, as in the official front end; the logarithm of silence would be infinite."""


def to_stereo(waveform: Tensor) -> Tensor:
    """Waveform (B, C, S) -> (B, 2, S): mono is repeated; of more than two channels the first two are taken.

    C channels, S samples. Raises ValueError for a waveform without channels.
    """
    channels = waveform.shape[-2]
    if channels == 0:
        raise ValueError("the waveform has no channels; one (mono) or two (stereo) are needed")
    # The model has no place for surround channels.
    return waveform.expand(-1, 2, -1) if channels == 1 else waveform[:, :2]


def resample(waveform: Tensor, rate: int, target: int) -> Tensor:
    """Waveform (..., S) at ``rate`` Hz -> (..., ceil(S target / rate)) in float32 at ``target`` Hz.

    Windowed sinc with torchaudio's defaults, with which the audio autoencoder was trained. Raises ValueError
    for a rate that is not a positive whole number.
    """
    if rate <= 0 or rate != int(rate):
        raise ValueError(f"the sample rate must be a whole number of Hz above 0; got {rate}")
    # Resampling in bfloat16 would be audible.
    waveform = waveform.float()
    if rate == target:
        return waveform
    return resample_sinc(waveform, int(rate), target)


def log_mel(waveform: Tensor, config: AudioVAEConfig) -> Tensor:
    """waveform (B, C, S) in [-1, 1] at ``config.sample_rate`` -> log-mel (B, C, T, M).

    S samples, M mel bins, T = S // hop_length + 1 mel frames. Natural logarithm of the mel-weighted magnitude
    (not power) of a centred short-time Fourier transform with a periodic Hann window, in float32. Raises
    ValueError for an empty waveform.
    """
    samples = waveform.shape[-1]
    if samples == 0:
        raise ValueError("the waveform is empty; at least one sample is needed")
    device = waveform.device
    if device.type in NO_COMPLEX:
        waveform = waveform.cpu()
    with in_float32(waveform.device):
        # Padding by reflection needs more samples than it adds, so shorter audio first gets silence.
        padded = F.pad(waveform.float(), (0, max(0, config.n_fft // 2 + 1 - samples)))
        spectrum = torch.stft(
            rearrange(padded, "b c s -> (b c) s"),
            n_fft=config.n_fft,
            hop_length=config.hop_length,
            win_length=config.win_length,
            window=torch.hann_window(config.win_length, device=waveform.device),
            # Headers say ``causal: true`` for this transform, which no reference reads: all of them centre
            # it.
            center=True,
            pad_mode="reflect",
            return_complex=True,
        )
        # Magnitude and not power, as in the training of the audio autoencoder.
        magnitude = rearrange(spectrum.abs(), "(b c) k t -> b c t k", b=waveform.shape[0])
        # The silence that was added for the reflection must not add frames.
        magnitude = magnitude[:, :, : samples // config.hop_length + 1]
        mel: Tensor = (magnitude @ mel_filters(config).to(magnitude.device)).clamp(min=LOG_FLOOR).log()
        return mel.to(device)


def mel_filters(config: AudioVAEConfig) -> Tensor:
    """Mel filters (K, M) of ``config``: the weight of each of K frequencies in each of M mel bins.

    See :func:`.dsp.mel_filter_bank`.
    """
    return mel_filter_bank(
        frequencies=config.n_fft // 2 + 1,
        mel_bins=config.mel_bins,
        sample_rate=config.sample_rate,
        f_min=config.mel_fmin,
        f_max=config.mel_fmax,
    )


def with_noise_floor(waveform: Tensor, level_db: float, seed: int = 0) -> Tensor:
    """Add white noise of ``level_db`` dB relative to full scale (RMS) to a waveform (..., S).

    The audio model was trained on recordings, which have a noise floor, and follows a reference audio better
    if that has a noise floor instead of digital silence. Equal seeds give equal noise. Raises ValueError for
    a level above 0 dB.
    """
    if not level_db <= 0:
        raise ValueError(f"level_db={level_db:g} must be 0 or below, such as -60")
    # Drawn on the CPU, so that the noise does not depend on the device.
    noise = torch.randn(waveform.shape, generator=torch.Generator().manual_seed(seed))
    return waveform + noise.to(waveform) * 10 ** (level_db / 20)
