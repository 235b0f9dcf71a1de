"""Whole sounds to latents and back.

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

    L is ``latent_frames`` where given: a longer sound is trimmed, a shorter one followed by silence. Else it
    follows from the sound: 25 a second and one more. Runs in float32 on the waveform's device, where the
    encoder must be. Raises ValueError for an empty waveform.
    """
    if waveform.ndim not in (2, 3):
        raise ValueError(
            f"a waveform is (channels, samples) or (batch, channels, samples); got {tuple(waveform.shape)}"
        )
    if waveform.shape[-1] == 0:
        raise ValueError("the waveform is empty; at least one sample is needed")
    config = encoder.config
    batched = waveform if waveform.ndim == 3 else waveform[None]
    sound = resample(to_stereo(batched), sample_rate, config.sample_rate)
    if latent_frames is not None:
        sound = F.pad(sound, (0, samples_for_latents(latent_frames, config) - sound.shape[-1]))
    latent: Tensor = encoder(log_mel(sound, config))
    return latent


@torch.no_grad()
def decode_audio(decoder: AudioDecoder, vocoder: Vocoder, latent: Tensor) -> tuple[Tensor, int]:
    """Normalised latent (B, 8, L, N) -> waveform (B, 2, S) float32 in [-1, 1] and its sample rate in Hz.

    S is 4L - 3 mel frames of 10 ms: 30 ms less than L latent frames of 40 ms.
    """
    expected = (decoder.config.z_channels, decoder.config.latent_bins)
    if latent.ndim != 4 or (latent.shape[1], latent.shape[3]) != expected or latent.shape[2] == 0:
        raise ValueError(
            f"an audio latent is (batch, {expected[0]}, frames, {expected[1]}) with at least one frame; "
            f"got {tuple(latent.shape)}"
        )
    waveform: Tensor = vocoder(decoder(latent))
    return waveform, vocoder.sample_rate


def samples_for_latents(latent_frames: int, config: AudioVAEConfig) -> int:
    """Samples at ``config.sample_rate`` that encode to exactly ``latent_frames``: the most there are.

    With all of them every mel frame that reaches the last latent sees the real sound, so trimming a sound to
    this length before encoding equals encoding it whole and cropping the latent.
    """
    if latent_frames < 1:
        raise ValueError(f"latent_frames must be at least 1; got {latent_frames}")
    return latent_frames * config.downsample * config.hop_length - 1


class AudioVAE(nn.Module):
    """Encoder, decoder and vocoder as one waveform-to-latent network, with what hosts ask it for."""

    def __init__(self, encoder: AudioEncoder, decoder: AudioDecoder, vocoder: Vocoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.vocoder = vocoder

    def encode(self, waveform: Tensor, sample_rate: int, *, latent_frames: int | None = None) -> Tensor:
        """See ``encode_audio``."""
        return encode_audio(self.encoder, waveform, sample_rate, latent_frames=latent_frames)

    def decode(self, latent: Tensor) -> Tensor:
        """Normalised latent (B, 8, L, N) -> waveform (B, 2, S) at ``output_sample_rate``."""
        return decode_audio(self.decoder, self.vocoder, latent)[0]

    def num_of_latents_from_frames(self, frames: int, fps: float) -> int:
        """Audio latent frames that cover ``frames`` video frames, rounded up as ComfyUI does."""
        return audio_latents_of(frames, fps, Numerics.COMFY)

    @property
    def sample_rate(self) -> int:
        """Rate that the mel front end works at, in Hz."""
        return self.encoder.config.sample_rate

    @property
    def output_sample_rate(self) -> int:
        """Rate of decoded waveforms, in Hz."""
        return self.vocoder.sample_rate

    @property
    def latent_channels(self) -> int:
        return self.encoder.config.z_channels

    @property
    def latent_frequency_bins(self) -> int:
        return self.encoder.config.latent_bins
