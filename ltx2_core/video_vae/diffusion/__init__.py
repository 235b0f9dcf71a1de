"""The diffusion video decoder of LTX-2.5: exact in pieces of any length, and in tiles of the frame."""

from .decoder import DiffusionVideoDecoder
from .noise import ClipShape, FrameNoise, NoiseSource, VolumeNoise
from .reach import ROWS_AT_ONCE, piece_bytes, tile_halo

__all__ = [
    "ROWS_AT_ONCE",
    "ClipShape",
    "DiffusionVideoDecoder",
    "FrameNoise",
    "NoiseSource",
    "VolumeNoise",
    "piece_bytes",
    "tile_halo",
]
