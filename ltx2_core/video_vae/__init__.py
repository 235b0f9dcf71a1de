"""Video autoencoder: frames <-> normalised latents, computed in pieces with the result of the whole clip."""

from __future__ import annotations

from .decoder import VideoDecoder
from .encoder import VideoEncoder
from .space_tiles import SpaceTiles, field_of_view
from .statistics import OPTIONAL_KEYS, PerChannelStatistics
from .streaming import MAX_PIECE_BYTES
from .tiling import Tile, Tiling, tiled_decode, tiled_encode

__all__ = [
    "MAX_PIECE_BYTES",
    "OPTIONAL_KEYS",
    "PerChannelStatistics",
    "SpaceTiles",
    "Tile",
    "Tiling",
    "VideoDecoder",
    "VideoEncoder",
    "VideoVAE",
    "field_of_view",
    "tiled_decode",
    "tiled_encode",
]


class VideoVAE(VideoEncoder, VideoDecoder):
    """Encoder and decoder in one module that share the latent statistics.

    The names in its state dict are those of a checkpoint without the prefix ``vae.``.
    """
