"""Video autoencoder: frames <-> normalised latents, streamed exactly in both directions."""

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
    """Both halves on one copy of the statistics; its state dict is a checkpoint's less ``vae.``"""
