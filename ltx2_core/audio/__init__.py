"""Audio autoencoder and vocoder: waveform -> log-mel -> latent, and latent -> log-mel -> waveform."""

from .autoencoder import AudioDecoder, AudioEncoder
from .codec import AudioVAE, decode_audio, encode_audio, samples_for_latents
from .mel import log_mel, resample, to_stereo, with_noise_floor
from .vocoder import Vocoder, build_vocoder

__all__ = [
    "AudioDecoder",
    "AudioEncoder",
    "AudioVAE",
    "Vocoder",
    "build_vocoder",
    "decode_audio",
    "encode_audio",
    "log_mel",
    "resample",
    "samples_for_latents",
    "to_stereo",
    "with_noise_floor",
]
