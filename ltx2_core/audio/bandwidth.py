"""Parts of the 2.3 vocoder's bandwidth extension: log-mel of the 16 kHz waveform, upsampling to 48 kHz.

Letters: B batch, S samples, M mel bins, T mel frames, K frequency bins, W window length.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..config import AudioVAEConfig, BandwidthExtensionConfig
from .antialias import upsample
from .dsp import ROLLOFF, ZERO_CROSSINGS
from .layers import Layers
from .mel import LOG_FLOOR, mel_filters


class LogMel(nn.Module):
    """Log-mel spectrogram of the 16 kHz waveform, with Fourier basis and mel filters from the checkpoint.

    The stored values are rounded to bfloat16 and the model was trained with these, so exact ones would change
    the result.
    """

    mel_basis: Tensor

    def __init__(self, config: BandwidthExtensionConfig, layers: Layers) -> None:
        super().__init__()
        self.hop_length = config.hop_length
        # Only the left side of the window is padded, so that the transform is causal.
        self.pad = config.win_length - config.hop_length
        filters = mel_filters(
            AudioVAEConfig(
                n_fft=config.n_fft,
                mel_bins=config.mel_bins,
                sample_rate=config.input_sample_rate,
                mel_fmax=config.input_sample_rate / 2,
            )
        )
        self.stft_fn = FourierBasis(config, layers)
        self.register_buffer("mel_basis", layers.constant(filters.T.contiguous()))

    def forward(self, waveform: Tensor) -> Tensor:
        """waveform (B, 2, S) -> log-mel (B, 2, T, M), T = ceil(S / hop_length) frames, M mel bins.

        Zeros fill the last hop and, on the left, the part of the window before the first hop.
        """
        basis = self.stft_fn.forward_basis.to(device=waveform.device, dtype=waveform.dtype)
        filters = self.mel_basis.to(device=waveform.device, dtype=waveform.dtype)
        last_hop = -waveform.shape[-1] % self.hop_length
        padded = F.pad(rearrange(waveform, "b c s -> (b c) 1 s"), (self.pad, last_hop))
        real, imaginary = F.conv1d(padded, basis, stride=self.hop_length).chunk(2, dim=1)
        magnitude = (real.square() + imaginary.square()).sqrt()
        # Logarithms of silence would be infinite.
        mel = (filters @ magnitude).clamp(min=LOG_FLOOR).log()
        return rearrange(mel, "(b c) m t -> b c t m", b=waveform.shape[0])


class FourierBasis(nn.Module):
    """Short-time Fourier transform as convolution filters (2K, 1, W): windowed cosines, then sines.

    K is the number of frequencies, W the length of the window in samples. Checkpoints also store the inverse
    transform, which nothing uses.
    """

    forward_basis: Tensor

    def __init__(self, config: BandwidthExtensionConfig, layers: Layers) -> None:
        super().__init__()
        if config.win_length != config.n_fft:
            raise ValueError(f"win_size={config.win_length} must equal n_fft={config.n_fft}")
        turns = np.outer(np.arange(config.n_fft // 2 + 1), np.arange(config.n_fft)) / config.n_fft
        angles = 2 * np.pi * turns
        # Dropping the last value makes the symmetric window periodic, as in torch.hann_window.
        window = np.hanning(config.n_fft + 1)[:-1]
        basis = np.concatenate([np.cos(angles), -np.sin(angles)]) * window
        self.register_buffer("forward_basis", layers.constant(basis[:, None]))
        # Registered only so that released files load strictly.
        self.register_buffer("inverse_basis", layers.constant(np.zeros_like(basis)[:, None]))


def sinc_upsample(waveform: Tensor, ratio: int) -> Tensor:
    """Interpolate a waveform to ``ratio`` times its sample rate, (B, C, S) -> (B, C, ratio * S).

    C channels, S samples. The filter is the windowed sinc of ``dsp.resample_sinc``.
    """
    # The filter reaches this many input samples to each side.
    width = math.ceil(ZERO_CROSSINGS / ROLLOFF)
    taps = torch.tensor(sinc_taps(ratio), dtype=waveform.dtype, device=waveform.device)
    front = 2 * width * ratio
    return upsample(waveform, taps[None, None], ratio, edge=width, cut=(front, front - ratio + 1))


def sinc_taps(ratio: int) -> list[float]:
    """Taps of ``sinc_upsample`` by ``ratio``: a Hann-windowed sinc with six zero crossings on each side.

    Their sum is about 1.
    """
    width = math.ceil(ZERO_CROSSINGS / ROLLOFF)
    t = (np.arange(2 * width * ratio + 1) / ratio - width) * ROLLOFF
    # Clipped, since the cosine would rise again beyond the last zero crossing.
    window = np.cos(np.pi * np.clip(t, -ZERO_CROSSINGS, ZERO_CROSSINGS) / (2 * ZERO_CROSSINGS)) ** 2
    return [float(value) for value in np.sinc(t) * window * ROLLOFF / ratio]
