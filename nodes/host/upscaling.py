"""Running a latent upscaler, which the host does not move to a device by itself."""

from __future__ import annotations

from math import prod
from typing import Any

import comfy.model_management
from torch import Tensor

from ...ltx2_core.upsampler import upsample_latent

BYTES_PER_VALUE = 3000.0
"""Working memory per value of the latent: the host's own estimate."""


def upscale_video(upscale_model: Any, samples: Tensor, video_vae: Any) -> Tensor:
    """Normalised video latent (B, C, f, h, w) -> larger one, on the host's device for results."""
    host = comfy.model_management
    device, dtype = host.get_torch_device(), next(upscale_model.parameters()).dtype
    host.free_memory(host.module_size(upscale_model) + prod(samples.shape) * BYTES_PER_VALUE, device)
    statistics = video_vae.first_stage_model.per_channel_statistics
    try:
        upscale_model.to(device)
        larger = upsample_latent(upscale_model, samples.to(device=device, dtype=dtype), statistics)
    finally:
        upscale_model.cpu()
    return larger.to(device=host.intermediate_device(), dtype=samples.dtype)
