"""Video autoencoder: frames <-> normalised latents, computed in pieces with the result of the whole clip."""

from __future__ import annotations

from typing import Any

from ..config import VideoVAEConfig
from .conditioned import DecodeNoise, DrawnNoise, NoisyDecoding, SeededNoise
from .decoder import VideoDecoder
from .diffusion.decoder import DiffusionVideoDecoder
from .diffusion.noise import FrameNoise, NoiseSource, VolumeNoise
from .encoder import VideoEncoder
from .space_tiles import SpaceTiles, field_of_view
from .statistics import OPTIONAL_KEYS, PerChannelStatistics
from .streaming import MAX_PIECE_BYTES
from .tiling import Tile, Tiling, tiled_decode, tiled_encode

__all__ = [
    "MAX_PIECE_BYTES",
    "OPTIONAL_KEYS",
    "AnyVideoDecoder",
    "DecodeNoise",
    "DiffusionVAE",
    "DiffusionVideoDecoder",
    "DrawnNoise",
    "FrameNoise",
    "NoiseSource",
    "NoisyDecoding",
    "PerChannelStatistics",
    "SeededNoise",
    "SpaceTiles",
    "Tile",
    "Tiling",
    "VideoDecoder",
    "VideoEncoder",
    "VideoVAE",
    "VolumeNoise",
    "build_decoder",
    "field_of_view",
    "tiled_decode",
    "tiled_encode",
]


class VideoVAE(VideoEncoder, VideoDecoder):
    """Encoder and decoder in one module that share the latent statistics.

    The names in its state dict are those of a checkpoint without the prefix ``vae.``.
    """


class DiffusionVAE(VideoEncoder, DiffusionVideoDecoder):
    """The encoder of LTX-2.3 and the diffusion decoder of LTX-2.5 in one module, like :class:`VideoVAE`."""


AnyVideoDecoder = VideoDecoder | DiffusionVideoDecoder
"""A convolutional or a diffusion decoder; both decode whole, in a stream or in tiles."""


def build_decoder(config: VideoVAEConfig, **options: Any) -> AnyVideoDecoder:
    """The video decoder that ``config`` describes; ``options`` are dtype, device and operations."""
    kind = VideoDecoder if config.diffusion is None else DiffusionVideoDecoder
    return kind(config, **options)
