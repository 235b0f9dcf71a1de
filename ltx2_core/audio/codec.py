"""Waveforms to audio latents and back, with all networks in between.

Letters: B batch, C channels, S samples, L audio latent frames, N latent bins.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import AudioVAEConfig
from ..shapes import audio_latents_of
from ..types import Numerics
from .autoencoder import AudioDecoder, AudioEncoder
from .mel import log_mel, resample, to_stereo
from .vocoder import Vocoder


@torch.no_grad()
def encode_audio(
    encoder: AudioEncoder, waveform: Tensor, sample_rate: int, *, latent_frames: int | None = None
) -> Tensor:
    """waveform (C, S) or (B, C, S) in [-1, 1] at ``sample_rate`` Hz -> normalised latent (B, 8, L, N).

    C channels, S samples; L latent frames, N latent bins. With ``latent_frames`` the audio is trimmed, or
    padded with silence, to exactly that L. With None L is about 25 per second of audio, plus 1. Computes in
    float32 on the waveform's device, where the encoder must be. Raises ValueError for an empty waveform or
    one of another shape, for ``latent_frames`` below 1, and for a rate that is not a positive whole number.
    """
    if waveform.ndim not in (2, 3):
        raise ValueError(
            f"a waveform is (channels, samples) or (batch, channels, samples); got {tuple(waveform.shape)}"
        )
    if waveform.shape[-1] == 0:
        raise ValueError("the waveform is empty; at least one sample is needed")
    config = encoder.config
    batched = waveform if waveform.ndim == 3 else waveform[None]
    # The networks were trained on stereo at one rate, whatever the file has.
    # One resampling, without a crop: ComfyUI's nodes go through 44.1 kHz and crop to multiples of 4096
    # samples, which loses up to 93 ms.
    samples = resample(to_stereo(batched), sample_rate, config.sample_rate)
    if latent_frames is not None:
        # A negative padding trims.
        samples = F.pad(samples, (0, samples_for_latents(latent_frames, config) - samples.shape[-1]))
    latent: Tensor = encoder(log_mel(samples, config))
    return latent


@torch.no_grad()
def decode_audio(decoder: AudioDecoder, vocoder: Vocoder, latent: Tensor) -> tuple[Tensor, int]:
    """Normalised latent (B, 8, L, N) -> waveform (B, 2, S) float32 in [-1, 1] and its sample rate in Hz.

    L latent frames, N latent bins. S samples cover 4L - 3 mel frames of 10 ms, which is 30 ms less than L
    latent frames of 40 ms. Raises ValueError for a latent of another shape.
    """
    expected = (decoder.config.z_channels, decoder.config.latent_bins)
    # The bins are checked as well, since a transposed latent would decode to noise without an error.
    if latent.ndim != 4 or (latent.shape[1], latent.shape[3]) != expected or latent.shape[2] == 0:
        raise ValueError(
            f"an audio latent is (batch, {expected[0]}, frames, {expected[1]}) with at least one frame; "
            f"got {tuple(latent.shape)}"
        )
    waveform: Tensor = vocoder(decoder(latent))
    return waveform, vocoder.sample_rate


def samples_for_latents(latent_frames: int, config: AudioVAEConfig) -> int:
    """The largest number of samples at ``config.sample_rate`` that encodes to ``latent_frames``.

    Every mel frame of the last latent frame is then computed from real samples, so that trimming audio to
    this length before encoding equals encoding all of it and cropping the latent. Raises ValueError for
    ``latent_frames`` below 1.
    """
    if latent_frames < 1:
        raise ValueError(f"latent_frames must be at least 1; got {latent_frames}")
    # One sample more would start another mel frame, and with it another latent.
    return latent_frames * config.downsample * config.hop_length - 1


class AudioVAE(nn.Module):
    """Encoder, decoder and vocoder as one network, with the attributes that ComfyUI reads of an audio VAE."""

    def __init__(self, encoder: AudioEncoder, decoder: AudioDecoder, vocoder: Vocoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.vocoder = vocoder

    def encode(self, waveform: Tensor, sample_rate: int, *, latent_frames: int | None = None) -> Tensor:
        """Waveform (C, S) or (B, C, S) in [-1, 1] at ``sample_rate`` Hz -> normalised latent (B, 8, L, N).

        C channels, S samples, L latent frames, N latent bins. ``latent_frames`` is L; None follows the
        waveform. See :func:`encode_audio`.
        """
        return encode_audio(self.encoder, waveform, sample_rate, latent_frames=latent_frames)

    def decode(self, latent: Tensor) -> Tensor:
        """Normalised latent (B, 8, L, N) -> waveform (B, 2, S) in [-1, 1] at ``output_sample_rate``.

        L latent frames, N latent bins, S samples.
        """
        return decode_audio(self.decoder, self.vocoder, latent)[0]

    def num_of_latents_from_frames(self, frames: int, fps: float) -> int:
        """Audio latent frames that cover ``frames`` video frames at ``fps``, rounded up as in ComfyUI."""
        # ComfyUI rounds up where the official code rounds to nearest.
        return audio_latents_of(frames, fps, Numerics.COMFY)

    @property
    def sample_rate(self) -> int:
        """Sample rate of the mel front end in Hz; ``encode`` resamples to it."""
        return self.encoder.config.sample_rate

    @property
    def output_sample_rate(self) -> int:
        """Sample rate of decoded waveforms in Hz."""
        return self.vocoder.sample_rate

    @property
    def latent_channels(self) -> int:
        return self.encoder.config.z_channels

    @property
    def latent_frequency_bins(self) -> int:
        return self.encoder.config.latent_bins
