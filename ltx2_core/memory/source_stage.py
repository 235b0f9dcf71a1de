"""Memory for reading and encoding the frames of a source clip, which does not depend on its length."""

from __future__ import annotations

from functools import lru_cache

import torch

from ..config import VideoVAEConfig
from ..shapes import TEMPORAL_SCALE, ClipPlan, frames_of
from ..video_vae import VideoEncoder
from .trace import Trace

# Float32 frames of 1280x704 take 11 MB each, so that a chunk stays below 400 MB.
CHUNK_FRAMES = 32
"""Frames of a source that are decoded, converted and brought to the device together."""

_OWN_BYTES = 3 * (1 + 1 + 4)
"""Bytes of a decoded pixel at most: as it was decoded, as one array, and in float32."""
_FITTED_BYTES = 3 * (4 + 4)
"""Bytes of a pixel at the size of the run: padded, cut and scaled to it, and in [-1, 1]."""


def source_host_bytes(size: tuple[int, int], clip: ClipPlan) -> int:
    """Bytes of system memory for the frames of a source clip that are held at once while it is read.

    ``size`` is (width, height) of the source in pixels; ``clip`` has the size to which its frames are scaled.
    """
    width, height = size
    return CHUNK_FRAMES * (_OWN_BYTES * width * height + _FITTED_BYTES * clip.width * clip.height)


@lru_cache(maxsize=8)
def encoder_bytes(config: VideoVAEConfig, width: int, height: int, dtype: torch.dtype) -> int:
    """Bytes of device memory for encoding a clip of any length, in addition to the weights of the encoder.

    ``width`` and ``height`` are pixels. Two chunks of frames are traced on the meta device: what is cached of
    the first is alive in the second.
    """
    encoder = VideoEncoder(config, dtype=dtype, device="meta")
    frames = frames_of(2 * CHUNK_FRAMES // TEMPORAL_SCALE)
    with torch.inference_mode(), Trace() as trace:
        clip = torch.empty(1, config.channels, frames, height, width, dtype=dtype, device="meta")
        for _ in encoder.encode_stream(chunk.clone() for chunk in clip.split(CHUNK_FRAMES, dim=2)):
            pass
        held = clip.element_size() * clip.numel()
    # The clip as a whole only exists in the trace.
    return trace.peak - held
