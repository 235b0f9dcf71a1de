"""The video VAE as a ComfyUI VAE, so that ComfyUI's nodes for decoding, encoding and saving take it.

Letters: B batch, C latent channels, F frames, H W rows and columns of pixels, f h w those of the latent.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.ops
import comfy.sd
import torch
from torch import Tensor

from ...ltx2_core.config import VideoVAEConfig, video_vae_config
from ...ltx2_core.loading import diffusion_vae
from ...ltx2_core.loading.detect import Component
from ...ltx2_core.memory import DecodeChoice, choose_decode, decoder_memory
from ...ltx2_core.out_of_memory import attempt
from ...ltx2_core.shapes import SPATIAL_SCALE, TEMPORAL_SCALE, VIDEO_CHANNELS, ClipPlan, latent_frames_of
from ...ltx2_core.video_vae import (
    DiffusionVAE,
    FrameNoise,
    SeededNoise,
    VideoEncoder,
    VideoVAE,
    VolumeNoise,
)
from ...ltx2_core.video_vae.diffusion.kernels import means_on
from .host_vae import HostVAE
from .patcher import Patcher, is_dynamic
from .progress import check_interrupted, count_bar
from .recipe import remember_recipe
from .values import Vae
from .weights import load_exactly, read_weights

ENCODE_CHUNK = 16
"""Pixel frames that are moved to the device at a time while a clip is encoded."""

STREAM_BYTES = 1 << 30
"""Least bytes of working memory, in addition to the clip itself, to decode or encode a clip in chunks."""

DIFFUSION_SHARE = 0.7
"""Part of the device's memory that the diffusion decoder may use before it decodes in tiles."""


def load_video_vae(
    *paths: str | Path, disable_dynamic: bool = False, dtype: torch.dtype | None = None
) -> comfy.sd.VAE:
    """Load the video VAE from a checkpoint, a VAE file, or two files with its encoder and decoder.

    With ``disable_dynamic`` weights are loaded and not streamed from the file, where ComfyUI can do so.
    ``dtype`` is the number format of weights and computation, None for the one that ComfyUI chooses. Raises
    ValueError if the files lack encoder or decoder, or if weights do not fit.
    """
    weights = read_weights(*paths)
    tensors = weights.take(Component.VIDEO_ENCODER, Component.VIDEO_DECODER)
    config = video_vae_config(weights.config, comfy=True)
    if config.diffusion is not None:
        tensors = diffusion_vae.made(tensors)
    encoder = weights.source(Component.VIDEO_ENCODER)
    dtype = dtype or comfy.model_management.vae_dtype(
        comfy.model_management.vae_device(), [torch.bfloat16, torch.float32]
    )
    # These operations skip the random initialisation, which loading overwrites.
    kind = HostVideoVAE if config.diffusion is None else HostDiffusionVAE
    network = kind(config, dtype=dtype, operations=comfy.ops.disable_weight_init)
    vae = HostVAE(network, dtype, dynamic=not disable_dynamic)
    load_exactly(network, tensors, f"video VAE of {weights.name}", assign=is_dynamic(vae.patcher))
    remember_recipe(vae, encoder)
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


def checked_video_vae(vae: Vae) -> Vae:
    """Return ``vae``. Raises ValueError if it is no video VAE of LTX-2, from whichever loader."""
    if (getattr(vae, "latent_dim", None), getattr(vae, "latent_channels", None)) != (3, VIDEO_CHANNELS):
        raise ValueError(
            f"video_vae is {type(getattr(vae, 'first_stage_model', vae)).__name__}, which is no video VAE of "
            "LTX-2: connect video_vae of LTX-2 Load Checkpoint or LTX-2 Load All, or VAE of ComfyUI's Load "
            "Checkpoint"
        )
    return vae


def in_float32(vae: Vae) -> Vae:
    """A VAE with the weights of ``vae`` that decodes in float32, as HDR clips need.

    It is ``vae`` itself if that computes in float32 already, else it is loaded again from the files of
    ``vae``. Raises ValueError for a VAE of another loader, whose files are unknown.
    """
    if vae.vae_dtype == torch.float32:
        return vae
    make, *rest = getattr(vae.patcher, "cached_patcher_init", None) or (None,)
    if make is not _video_vae_patcher:
        raise ValueError(
            "HDR is decoded in float32, and this VAE computes in "
            f"{str(vae.vae_dtype).removeprefix('torch.')}: load it with LTX-2 Load All or LTX-2 Load "
            "Checkpoint"
        )
    return load_video_vae(*rest[0], dtype=torch.float32)


def _decode_bytes(config: VideoVAEConfig, shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Estimate the bytes of working memory for decoding a latent of ``shape`` (B, C, F, H, W) in ``dtype``.

    Weights and the decoded frames are not counted.
    """
    batch, _, frames, *cells = shape
    if config.diffusion is not None:
        return max(STREAM_BYTES, batch * _diffusion_choice(config, shape, dtype).memory.peak)
    memory = decoder_memory(config, latent_frames=frames, cells=(cells[0], cells[1]), itemsize=dtype.itemsize)
    return max(STREAM_BYTES, batch * memory.peak)


def _encode_bytes(config: VideoVAEConfig, shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Estimate the bytes of working memory for encoding frames of ``shape`` (B, 3, frames, height, width).

    Weights and the frames are not counted. The estimate is 1.5 times that for decoding the same frames;
    measurements never exceeded it.
    """
    batch, _, frames, height, width = shape
    cells = max(1, height // SPATIAL_SCALE), max(1, width // SPATIAL_SCALE)
    return _decode_bytes(config, (batch, 0, latent_frames_of(frames), *cells), dtype) * 3 // 2


def _diffusion_choice(config: VideoVAEConfig, shape: tuple[int, ...], dtype: torch.dtype) -> DecodeChoice:
    """Choose how the diffusion decoder decodes a latent of ``shape`` (B, C, F, H, W): whole or in tiles.

    Decoding may use the share ``DIFFUSION_SHARE`` of the memory of ComfyUI's device; on the CPU there is no
    limit.
    """
    batch, _, frames, *cells = shape
    room = sys.maxsize
    device = comfy.model_management.vae_device()
    if device.type != "cpu":
        # Weights and other programs share the device.
        room = int(comfy.model_management.get_total_memory(device) * DIFFUSION_SHARE) // batch
    width, height = (max(1, size) * SPATIAL_SCALE for size in reversed(cells))
    clip = ClipPlan(width=width, height=height, frames=max(1, TEMPORAL_SCALE * (frames - 1) + 1), fps=24.0)
    return choose_decode(room, vae=config, clip=clip, dtype=dtype, means=means_on(device))


@contextmanager
def decoder_noise(vae: comfy.sd.VAE, seed: int) -> Iterator[None]:
    """A context in which a decoder of ``vae`` that uses noise uses that of this ``seed``.

    Raises ValueError for a seed other than 0 if ``vae`` has another decoder, which uses no noise, or is not
    of this pack.
    """
    network = vae.first_stage_model
    if not seed:
        yield
        return
    if isinstance(network, HostVideoVAE) and network.config.uses_noise:
        noisy, network.noisy = network.noisy, replace(network.noisy, noise=SeededNoise(seed))
        try:
            yield
        finally:
            network.noisy = noisy
        return
    if not isinstance(network, HostDiffusionVAE):
        raise ValueError(
            f"decoder_seed={seed} is for the diffusion VAE of LTX-2.5 and the VAEs of LTX-Video, loaded by a "
            "node of this pack; set it to 0 for another VAE"
        )
    before, network.noise = network.noise, network.noise.seeded(seed)
    try:
        yield
    finally:
        network.noise = before


class _ChunkedVAE(VideoEncoder):
    """A video VAE with the methods by which ComfyUI decodes and encodes a clip in chunks."""

    comfy_has_chunked_io = True

    def decode_output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape (B, 3, frames, height, width) in pixels to which a latent of ``shape`` is decoded.

        ``shape`` is (B, C, F, H, W).
        """
        batch, _, frames, height, width = shape
        pixels = self.time_scale * (frames - 1) + 1, self.space_scale * height, self.space_scale * width
        return batch, self.config.channels, *pixels

    def decode(self, latent: Tensor, output_buffer: Tensor | None = None) -> Tensor:
        """Decode a normalised latent (B, C, F, H, W) to frames (B, 3, frames, height, width) in [-1, 1].

        They are written chunk by chunk to ``output_buffer``, which is returned, or without one to a new
        tensor.
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

    def decode_parts(self, parts: Iterable[Tensor]) -> Iterator[Tensor]:
        """Decode consecutive ``parts`` (B, C, F, H, W) of a latent.

        Yields frames (B, 3, frames, height, width) in [-1, 1] in order, a few at a time.
        """
        raise NotImplementedError

    def _pieces(self, latent: Tensor) -> Iterator[Tensor]:
        """Decode ``latent`` (B, C, F, H, W) and yield chunks of frames in [-1, 1] in order."""
        return self.decode_parts((latent,))

    def encode(self, frames: Tensor, device: torch.device | None = None) -> Tensor:  # type: ignore[override]
        """Encode frames (B, 3, frames, height, width) in [-1, 1] to a normalised latent.

        Only the first 8k + 1 frames are used. Chunks of frames are moved to ``device`` when they are encoded;
        None leaves them where they are.
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

    def decode_parts(self, parts: Iterable[Tensor]) -> Iterator[Tensor]:
        return self.decode_stream(parts)


class HostDiffusionVAE(_ChunkedVAE, DiffusionVAE):  # type: ignore[misc]
    """The video VAE with the diffusion decoder of LTX-2.5, as ComfyUI calls it.

    Decoding starts from the same noise as in ComfyUI's own decoder: seed 0 for every clip. A clip that
    arrives in several parts, such as a long video, has noise of each frame by itself, since its length is not
    known beforehand.
    """

    noise: VolumeNoise
    decodes_whole = True
    """ComfyUI's tiles are not used: this decoder decodes exactly in pieces, within the memory there is."""

    def __init__(self, config: VideoVAEConfig, **options: Any) -> None:
        super().__init__(config, **options)
        self.noise, self.pad_small = VolumeNoise(0), False

    def decode_parts(self, parts: Iterable[Tensor]) -> Iterator[Tensor]:
        arriving = iter(parts)
        first, second = next(arriving), next(arriving, None)
        latent = first if second is None else chain((first, second), arriving)
        noise = self.noise if second is None else FrameNoise(self.noise.seed)
        choice = _diffusion_choice(self.config, tuple(first.shape), first.dtype)
        limit = len(first) * choice.piece_bytes
        if choice.tiles is None:
            return self.decode_stream(latent, max_piece_bytes=limit, noise=noise)
        return self.decode_tiles(latent, choice.tiles, max_piece_bytes=limit, noise=noise)


def _video_vae_patcher(*paths: str, disable_dynamic: bool = False) -> Patcher:
    return load_video_vae(*paths, disable_dynamic=disable_dynamic).patcher
