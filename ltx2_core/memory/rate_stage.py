"""Memory for doubling the frame rate of a video latent by a temporal latent upscaler."""

from __future__ import annotations

from functools import lru_cache

import torch

from ..config import UpsamplerConfig
from ..upsampler import LatentUpsampler
from .trace import Trace


@lru_cache(maxsize=8)
def upsampler_bytes(config: UpsamplerConfig, shape: tuple[int, int, int], dtype: torch.dtype) -> int:
    """Bytes of device memory for enlarging a latent of ``shape`` (latent frames, rows, columns).

    They are in addition to the weights of the upscaler. The network is traced on the meta device.
    """
    network = LatentUpsampler(config, dtype=dtype, device="meta")
    with torch.inference_mode(), Trace() as trace:
        network(torch.empty(1, config.in_channels, *shape, dtype=dtype, device="meta"))
    return trace.peak
