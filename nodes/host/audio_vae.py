"""The audio VAE as a ComfyUI VAE, and the encoding of audio with any audio VAE of LTX-2.

Letters: B batch, L audio latent frames, S samples.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import comfy.model_management
import comfy.ops
import comfy.sd
import torch
from torch import Tensor, nn

from ...ltx2_core.audio import AudioDecoder, AudioEncoder, AudioVAE, Vocoder, build_vocoder
from ...ltx2_core.config import audio_vae_config, vocoder_config
from ...ltx2_core.loading.detect import Component
from ...ltx2_core.out_of_memory import attempt
from .host_vae import HostVAE
from .patcher import Patcher
from .progress import check_interrupted
from .values import Vae
from .weights import load_exactly, read_weights

HOST_AUDIO_RATIO = 4096
"""Samples that ComfyUI counts for each audio latent frame when it cuts tiles and crops waveforms."""

HOST_AUDIO_RATE = 44100
"""Rate in Hz of the waveforms that ComfyUI and other packs encode, whatever rate the networks take."""


def load_audio_vae(*paths: str | Path, disable_dynamic: bool = False) -> comfy.sd.VAE:
    """Load the audio VAE and the vocoder as one ComfyUI VAE, from a checkpoint or from files with its parts.

    ``encode`` of the result takes waveforms at 44100 Hz, as that of ComfyUI's own audio VAE does; for other
    rates, and to encode without cropping, call :func:`encode_audio`. ``disable_dynamic`` has no effect,
    because these small networks are always loaded whole. Raises ValueError if the files lack one of the
    networks or the weights do not fit.
    """
    weights = read_weights(*paths)
    parts = {
        name: weights.take(component)
        for name, component in (
            ("encoder", Component.AUDIO_ENCODER),
            ("decoder", Component.AUDIO_DECODER),
            ("vocoder", Component.VOCODER),
        )
    }
    config, vocoder = audio_vae_config(weights.config), vocoder_config(weights.config)
    # The vocoder loses quality in bfloat16, and the networks for audio are small.
    dtype, operations = torch.float32, comfy.ops.disable_weight_init
    network = HostAudioVAE(
        AudioEncoder(config, dtype=dtype, operations=operations),
        AudioDecoder(config, dtype=dtype, operations=operations),
        build_vocoder(vocoder, dtype=dtype, operations=operations),
    )
    for name, tensors in parts.items():
        load_exactly(getattr(network, name), tensors, f"audio {name} of {weights.name}", assign=False)
    vae = HostVAE(network, dtype, dynamic=False)
    vae.latent_channels, vae.latent_dim, vae.output_channels = config.z_channels, 2, config.out_channels
    vae.upscale_ratio = vae.downscale_ratio = HOST_AUDIO_RATIO
    vae.extra_1d_channel, vae.pad_channel_value = config.latent_bins, "replicate"
    vae.process_input = vae.process_output = lambda audio: audio
    # Loaded whole or not at all, as ComfyUI does with its own audio VAE: the networks are small.
    vae.working_dtypes, vae.disable_offload = [dtype], True
    vae.audio_sample_rate, vae.audio_sample_rate_output = HOST_AUDIO_RATE, vocoder.sample_rate
    vae.autoencoder = AudioFrontEnd(config.sample_rate, config.hop_length, config.mel_bins)
    vae.memory_used_encode = lambda shape, dtype: 2048 * shape[2]
    vae.memory_used_decode = lambda shape, dtype: 512 * 1024 * prod(shape[2:])
    vae.patcher.cached_patcher_init = (_audio_vae_patcher, tuple(map(str, paths)))
    return vae


class AudioFrontEnd(NamedTuple):
    """The attributes of a VAE's ``autoencoder`` that other node packs read.

    They are the sample rate in Hz that the encoder works at, the samples per mel frame, and the number of mel
    bins.
    """

    sampling_rate: int
    mel_hop_length: int
    mel_bins: int


def _check_before(_module: nn.Module, _arguments: tuple[object, ...]) -> None:
    """A hook before the forward pass of a layer; raises ComfyUI's interrupt if the user pressed stop."""
    check_interrupted()


class HostAudioVAE(AudioVAE):
    """The audio VAE with ComfyUI's interface; ``encode`` takes waveforms at 44100 Hz if no rate is stated.

    The stop button takes effect between any two layers.
    """

    def __init__(self, encoder: AudioEncoder, decoder: AudioDecoder, vocoder: Vocoder) -> None:
        super().__init__(encoder, decoder, vocoder)
        # The networks are run in one piece, minutes of audio at once, and have no callback.
        for module in self.modules():
            module.register_forward_pre_hook(_check_before)

    def encode(self, waveform: Tensor, sample_rate: int = HOST_AUDIO_RATE) -> Tensor:  # type: ignore[override]
        """Encode a waveform (B, channels, samples) at ``sample_rate`` Hz.

        Returns the normalised latent (B, 8, audio latent frames, 16).
        """
        return attempt("encoding audio", lambda: super(HostAudioVAE, self).encode(waveform, sample_rate))

    def decode(self, latent: Tensor) -> Tensor:
        """Decode a normalised latent (B, 8, audio latent frames, 16) to a stereo waveform (B, 2, samples).

        The waveform is at the vocoder's sample rate, ``output_sample_rate`` in Hz.
        """
        return attempt("decoding the audio", lambda: super(HostAudioVAE, self).decode(latent))

    @property
    def mel_hop_length(self) -> int:
        return self.encoder.config.hop_length

    @property
    def latents_per_second(self) -> float:
        return self.sample_rate / self.mel_hop_length / self.encoder.config.downsample


def encode_audio(audio_vae: Vae, waveform: Tensor, sample_rate: int) -> Tensor:
    """Encode a waveform (B, 2, samples) at ``sample_rate`` Hz, with any audio VAE of LTX-2.

    Returns the normalised latent (B, 8, audio latent frames, 16). ``audio_vae`` may be from this pack's
    loader or from ComfyUI's; its network is called directly, because ComfyUI's ``VAE.encode`` crops up to 93
    ms of the waveform. Raises ValueError if ``audio_vae`` is no audio VAE of LTX-2.
    """
    audio_rate_of(audio_vae)
    network = audio_vae.first_stage_model
    memory = audio_vae.memory_used_encode(waveform.shape, audio_vae.vae_dtype)
    # The host loads a VAE's weights in its own ``encode``, which is not called here.
    comfy.model_management.load_models_gpu(
        [audio_vae.patcher], memory_required=memory, force_full_load=audio_vae.disable_offload
    )
    samples = waveform.to(device=audio_vae.device, dtype=audio_vae.vae_dtype)
    latent: Tensor = network.encode(samples, sample_rate)
    return latent.to(audio_vae.output_device).float()


def audio_rate_of(audio_vae: Vae) -> int:
    """The sample rate in Hz that the encoder of ``audio_vae`` works at.

    Raises ValueError if ``audio_vae`` is no audio VAE of LTX-2.
    """
    network: Any = getattr(audio_vae, "first_stage_model", None)
    if not hasattr(network, "num_of_latents_from_frames"):
        raise ValueError(
            f"audio_vae is {type(network).__name__}, which is no audio VAE of LTX-2: connect audio_vae of "
            "LTX-2 Load Checkpoint or LTX-2 Load All, or ComfyUI's Load LTXV Audio VAE"
        )
    return int(network.sample_rate)


def _audio_vae_patcher(*paths: str, disable_dynamic: bool = False) -> Patcher:
    return load_audio_vae(*paths, disable_dynamic=disable_dynamic).patcher
