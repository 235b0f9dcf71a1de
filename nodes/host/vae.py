"""The video and audio VAEs as ComfyUI VAEs, so that its nodes for decoding, encoding and saving take them.

Letters: B batch, C latent channels, F frames, H W rows and columns of pixels, f h w those of the latent, S
samples.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import comfy.model_management
import comfy.ops
import comfy.sd
import torch
from torch import Tensor, nn

from ...ltx2_core.audio import AudioDecoder, AudioEncoder, AudioVAE, build_vocoder
from ...ltx2_core.config import VideoVAEConfig, audio_vae_config, video_vae_config, vocoder_config
from ...ltx2_core.loading import diffusion_vae
from ...ltx2_core.loading.detect import Component
from ...ltx2_core.memory import DecodeChoice, choose_decode, decoder_memory
from ...ltx2_core.out_of_memory import attempt
from ...ltx2_core.run.recipes import generation_of, recipe_for
from ...ltx2_core.shapes import SPATIAL_SCALE, TEMPORAL_SCALE, ClipPlan, latent_frames_of
from ...ltx2_core.video_vae import DiffusionVAE, VideoEncoder, VideoVAE, VolumeNoise
from .patcher import Patcher, is_dynamic, make_patcher, remember_dtypes
from .progress import check_interrupted, count_bar
from .values import Vae
from .weights import load_exactly, read_weights

ENCODE_CHUNK = 16
"""Pixel frames that are moved to the device at a time."""

STREAM_BYTES = 1 << 30
"""Least working memory of a streamed pass in addition to the clip itself, whatever the clip's length."""

DIFFUSION_SHARE = 0.7
"""Part of the device's memory that the diffusion decoder may use before it decodes in tiles."""

RECIPE = "ltx2_recipe"
"""Attribute of a video VAE: the recipe of the checkpoint that it is from, which images are compressed by."""

HOST_AUDIO_RATIO = 4096
"""Samples per latent in the host's arithmetic for audio, by which it cuts tiles and crops what it encodes."""

HOST_AUDIO_RATE = 44100
"""Rate in Hz of the waveforms that the host and other packs encode, whatever rate the networks take."""


def load_video_vae(*paths: str | Path, disable_dynamic: bool = False) -> comfy.sd.VAE:
    """Load the video VAE from a checkpoint, a VAE file, or two files with its encoder and decoder.

    Raises ValueError if they hold none or its weights do not fit.
    """
    weights = read_weights(*paths)
    tensors = weights.take(Component.VIDEO_ENCODER, Component.VIDEO_DECODER)
    config = video_vae_config(weights.config)
    if config.diffusion is not None:
        tensors = diffusion_vae.made(tensors)
    encoder = weights.source(Component.VIDEO_ENCODER)
    dtype = comfy.model_management.vae_dtype(
        comfy.model_management.vae_device(), [torch.bfloat16, torch.float32]
    )
    # These operations skip the random initialisation, which loading overwrites.
    kind = HostVideoVAE if config.diffusion is None else HostDiffusionVAE
    network = kind(config, dtype=dtype, operations=comfy.ops.disable_weight_init)
    vae = _HostVAE(network, dtype, dynamic=not disable_dynamic)
    load_exactly(network, tensors, f"video VAE of {weights.name}", assign=is_dynamic(vae.patcher))
    version = str(encoder.metadata.get("model_version", ""))
    setattr(vae, RECIPE, recipe_for(generation_of(version, inferred=encoder.generation)))
    time, space = TEMPORAL_SCALE, SPATIAL_SCALE
    vae.latent_channels, vae.latent_dim, vae.output_channels = config.latent_channels, 3, config.channels
    # The host computes tiles and sizes of results from these.
    vae.upscale_ratio = (lambda latents: max(0, time * (latents - 1) + 1), space, space)
    vae.downscale_ratio = (lambda frames: max(0, (frames + time - 1) // time), space, space)
    vae.upscale_index_formula = vae.downscale_index_formula = (time, space, space)
    # Decoded frames lie on the output device, so only pieces of bounded size count here.
    vae.memory_used_decode = lambda shape, dtype: _decode_bytes(config, tuple(shape), dtype)
    vae.memory_used_encode = lambda shape, dtype: _encode_bytes(config, tuple(shape), dtype)
    vae.patcher.cached_patcher_init = (_video_vae_patcher, tuple(map(str, paths)))
    return vae


def load_audio_vae(*paths: str | Path, disable_dynamic: bool = False) -> comfy.sd.VAE:
    """Load the audio VAE and the vocoder from a checkpoint or from files with its parts.

    Its ``encode`` takes what ComfyUI's own audio VAE takes; the function :func:`encode_audio` takes any rate
    and crops nothing. Raises ValueError if they hold none or the weights do not fit.
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
    vae = _HostVAE(network, dtype, dynamic=False)
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


def _decode_bytes(config: VideoVAEConfig, shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Estimate the bytes for decoding a latent (B, C, f, h, w), without those of weights and frames."""
    batch, _, frames, *cells = shape
    if config.diffusion is not None:
        return max(STREAM_BYTES, batch * _diffusion_choice(config, shape, dtype).memory.peak)
    memory = decoder_memory(config, latent_frames=frames, cells=(cells[0], cells[1]), itemsize=dtype.itemsize)
    return max(STREAM_BYTES, batch * memory.peak)


def _encode_bytes(config: VideoVAEConfig, shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Estimate the bytes for encoding frames (B, 3, F, H, W), without those of weights and frames.

    It is half as much again as for decoding the same frames; measurements never exceeded that.
    """
    batch, _, frames, height, width = shape
    cells = max(1, height // SPATIAL_SCALE), max(1, width // SPATIAL_SCALE)
    return _decode_bytes(config, (batch, 0, latent_frames_of(frames), *cells), dtype) * 3 // 2


def _diffusion_choice(config: VideoVAEConfig, shape: tuple[int, ...], dtype: torch.dtype) -> DecodeChoice:
    """How to decode a latent (B, C, f, h, w) on the host's device: whole or in tiles."""
    batch, _, frames, *cells = shape
    room = sys.maxsize
    device = comfy.model_management.vae_device()
    if device.type != "cpu":
        # Weights and other programs share the device.
        room = int(comfy.model_management.get_total_memory(device) * DIFFUSION_SHARE) // batch
    width, height = (max(1, size) * SPATIAL_SCALE for size in reversed(cells))
    clip = ClipPlan(width=width, height=height, frames=max(1, TEMPORAL_SCALE * (frames - 1) + 1), fps=24.0)
    return choose_decode(room, vae=config, clip=clip, dtype=dtype)


class _ChunkedVAE(VideoEncoder):
    """ComfyUI's interface for decoding and encoding a clip in chunks, over the networks of this pack."""

    comfy_has_chunked_io = True

    def decode_output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the decoded frames, (B, 3, F, H, W), for a latent of shape (B, C, f, h, w)."""
        batch, _, frames, height, width = shape
        pixels = self.time_scale * (frames - 1) + 1, self.space_scale * height, self.space_scale * width
        return batch, self.config.channels, *pixels

    def decode(self, latent: Tensor, output_buffer: Tensor | None = None) -> Tensor:
        """Decode a normalised latent (B, C, f, h, w) to frames (B, 3, F, H, W) in [-1, 1].

        Each chunk of frames is written to ``output_buffer``, if there is one, as soon as it is decoded.
        """
        shape = self.decode_output_shape(tuple(latent.shape))
        # The host's buffer is on the output device, so that only one decoded piece is on the GPU.
        frames = latent.new_empty(shape) if output_buffer is None else output_buffer
        attempt("decoding the video", lambda: self._decode_into(frames, latent))
        return frames

    def _decode_into(self, frames: Tensor, latent: Tensor) -> None:
        done, on_count = 0, count_bar(frames.shape[2], "decoding frame")
        for piece in self._pieces(latent):
            frames[:, :, done : done + piece.shape[2]].copy_(piece)
            done += piece.shape[2]
            on_count(done)

    def _pieces(self, latent: Tensor) -> Iterator[Tensor]:
        raise NotImplementedError

    def encode(self, frames: Tensor, device: torch.device | None = None) -> Tensor:  # type: ignore[override]
        """Encode frames (B, 3, F, H, W) in [-1, 1] to a normalised latent.

        Only the first 8k + 1 frames are used.
        """
        # The encoder is causal and takes one frame and then groups of eight.
        usable = (frames.shape[2] - 1) // self.time_scale * self.time_scale + 1
        chunks = frames[:, :, :usable].split(ENCODE_CHUNK, dim=2)

        def moved(chunk: Tensor) -> Tensor:
            check_interrupted()
            return chunk.to(device or chunk.device)

        def encoded() -> Tensor:
            return torch.cat(list(self.encode_stream(map(moved, chunks))), dim=2)

        return attempt("encoding frames", encoded)


class HostVideoVAE(_ChunkedVAE, VideoVAE):  # type: ignore[misc]
    """The video VAE with a convolutional decoder, as ComfyUI calls it."""

    def _pieces(self, latent: Tensor) -> Iterator[Tensor]:
        return self.decode_stream(latent)


class HostDiffusionVAE(_ChunkedVAE, DiffusionVAE):  # type: ignore[misc]
    """The video VAE with the diffusion decoder of LTX-2.5, as ComfyUI calls it.

    Noise is that of ComfyUI's own decoder: seed 0 for every clip.
    """

    def __init__(self, config: VideoVAEConfig, **options: Any) -> None:
        super().__init__(config, **options)
        self.noise, self.pad_small = VolumeNoise(0), False

    def _pieces(self, latent: Tensor) -> Iterator[Tensor]:
        choice = _diffusion_choice(self.config, tuple(latent.shape), latent.dtype)
        if choice.tiles is None:
            return self.decode_stream(latent, max_piece_bytes=len(latent) * choice.piece_bytes)
        return self.decode_tiles(latent, choice.tiles, max_piece_bytes=len(latent) * choice.piece_bytes)


class AudioFrontEnd(NamedTuple):
    """The attributes of ``vae.autoencoder`` that other packs read.

    They are the sample rate in Hz, the samples per mel frame, and the number of mel bins.
    """

    sampling_rate: int
    mel_hop_length: int
    mel_bins: int


class HostAudioVAE(AudioVAE):
    """The audio VAE with ComfyUI's interface; waveforms have ``HOST_AUDIO_RATE`` by default."""

    def encode(self, waveform: Tensor, sample_rate: int = HOST_AUDIO_RATE) -> Tensor:  # type: ignore[override]
        """Waveform (B, channels, S) at ``sample_rate`` Hz -> latent (B, 8, L, 16)."""
        return attempt("encoding audio", lambda: super(HostAudioVAE, self).encode(waveform, sample_rate))

    def decode(self, latent: Tensor) -> Tensor:
        """Normalised latent (B, 8, L, 16) -> waveform (B, 2, S) at ``output_sample_rate``."""
        return attempt("decoding the audio", lambda: super(HostAudioVAE, self).decode(latent))

    @property
    def mel_hop_length(self) -> int:
        return self.encoder.config.hop_length

    @property
    def latents_per_second(self) -> float:
        return self.sample_rate / self.mel_hop_length / self.encoder.config.downsample


def encode_audio(audio_vae: Vae, waveform: Tensor, sample_rate: int) -> Tensor:
    """Encode a waveform (B, 2, S) at ``sample_rate`` Hz to a normalised latent (B, 8, L, 16).

    ``audio_vae`` is any audio VAE of LTX-2, this pack's or ComfyUI's. Its network is called directly, because
    ComfyUI's ``VAE.encode`` crops up to 93 ms. Raises ValueError for another VAE.
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
    """The sample rate in Hz that an audio VAE of LTX-2 encodes. Raises ValueError for another VAE."""
    network: Any = getattr(audio_vae, "first_stage_model", None)
    if not hasattr(network, "num_of_latents_from_frames"):
        raise ValueError(
            f"audio_vae is a {type(network).__name__} and no audio VAE of LTX-2: connect audio_vae of LTX-2 "
            "Load Checkpoint or LTX-2 Load All, or ComfyUI's Load LTXV Audio VAE"
        )
    return int(network.sample_rate)


class _HostVAE(comfy.sd.VAE):
    """ComfyUI's VAE class around a network of this pack.

    Its own constructor builds only ComfyUI's networks.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype, *, dynamic: bool) -> None:
        # With an empty state dict the host's constructor sets its attributes and builds no network.
        with _without_vae_warning():
            super().__init__(sd={})
        self.first_stage_model = network.eval().requires_grad_(False)
        self.device, self.vae_dtype = comfy.model_management.vae_device(), dtype
        self.output_device = comfy.model_management.intermediate_device()
        remember_dtypes(network)
        offload = comfy.model_management.vae_offload_device()
        self.patcher = make_patcher(network, self.device, offload, dynamic=dynamic)

    def decode(self, samples_in: Any, *args: Any, **options: Any) -> Tensor:
        decoded: Tensor = super().decode(self._own_stream(samples_in), *args, **options)
        return decoded

    def decode_tiled(self, samples: Any, *args: Any, **options: Any) -> Tensor:
        decoded: Tensor = super().decode_tiled(self._own_stream(samples), *args, **options)
        return decoded

    def decode_tiled_3d(self, samples: Tensor, *args: Any, **options: Any) -> Tensor:
        """The host's tiles; for the diffusion decoder the exact frames of the whole clip, in any memory.

        Tiles of its latent would be clips of their own, with seams that no overlap hides.
        """
        network: Any = self.first_stage_model
        if not isinstance(network, HostDiffusionVAE):
            tiled: Tensor = super().decode_tiled_3d(samples, *args, **options)
            return tiled
        shape = network.decode_output_shape(tuple(samples.shape))
        frames = torch.empty(shape, device=self.output_device, dtype=self.vae_output_dtype())
        network.decode(samples.to(device=self.device, dtype=self.vae_dtype), output_buffer=frames)
        pixels: Tensor = self.process_output(frames)
        return pixels

    def decode_tiled_1d(self, samples: Tensor, *args: Any, **options: Any) -> Tensor:
        """The whole latent, where the host falls back to tiles, whose sizes it gets wrong for this audio.

        Raises torch.OutOfMemoryError if there is still no room.
        """
        network: Any = self.first_stage_model
        decoded = network.decode(samples.to(self.device, self.vae_dtype))
        waveform: Tensor = self.process_output(decoded.to(self.output_device, self.vae_output_dtype()))
        return waveform

    def encode_tiled_1d(self, samples: Tensor, *args: Any, **options: Any) -> Tensor:
        """As :meth:`decode_tiled_1d`, for a waveform."""
        network: Any = self.first_stage_model
        waveform = self.process_input(samples).to(self.device, self.vae_dtype)
        latent: Tensor = network.encode(waveform).to(self.output_device, self.vae_output_dtype())
        return latent

    def _own_stream(self, samples: Any) -> Tensor:
        """Take the stream that this VAE decodes from an audio-video latent.

        A plain tensor is returned unchanged.
        """
        streams: Sequence[Tensor] = samples.unbind() if getattr(samples, "is_nested", False) else (samples,)
        # The video comes first, as in ComfyUI's nodes: VAE Decode takes the first stream and the audio node
        # the last.
        return streams[0] if self.latent_dim == 3 else streams[-1]


@contextmanager
def _without_vae_warning() -> Iterator[None]:
    """A context without ComfyUI's warning that a state dict holds no VAE; here it is empty on purpose."""

    def other(record: logging.LogRecord) -> bool:
        return "No VAE weights" not in record.getMessage()

    # The host logs this warning by the root logger, so no other logger could be filtered instead.
    root = logging.getLogger()
    root.addFilter(other)
    try:
        yield
    finally:
        root.removeFilter(other)


def _video_vae_patcher(*paths: str, disable_dynamic: bool = False) -> Patcher:
    return load_video_vae(*paths, disable_dynamic=disable_dynamic).patcher


def _audio_vae_patcher(*paths: str, disable_dynamic: bool = False) -> Patcher:
    return load_audio_vae(*paths, disable_dynamic=disable_dynamic).patcher
