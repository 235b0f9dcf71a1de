"""Loads latent upscalers as ComfyUI's LATENT_UPSCALE_MODEL.

Since ComfyUI 0.29 such a value is a ModelPatcher, before it was the plain network.
"""

from __future__ import annotations

from pathlib import Path

import comfy.model_management
import comfy.ops
import torch
from comfy.ldm.lightricks.latent_upsampler import LatentUpsampler as CoreUpsampler
from torch import Tensor

from ...ltx2_core.loading.checkpoint import open_checkpoint
from ...ltx2_core.loading.detect import Component
from ...ltx2_core.upsampler import LatentUpsampler
from .patcher import make_patcher, remember_dtypes
from .values import UpscaleModel

MANAGED = hasattr(CoreUpsampler, "get_dtype")
"""Whether this host's own loader makes a ModelPatcher. The network then has to state its dtype."""


def load_upscaler(path: str | Path) -> UpscaleModel:
    """Load the latent upscaler in a file as a LATENT_UPSCALE_MODEL, in the dtype that ComfyUI uses for VAEs.

    Raises ValueError if the file holds no latent upscaler or its weights do not fit.
    """
    host = comfy.model_management
    dtype = host.vae_dtype(allowed_dtypes=[torch.bfloat16, torch.float32])
    network = open_checkpoint(path).load(
        Component.UPSAMPLER, dtype=dtype, operations=comfy.ops.disable_weight_init
    )
    # The library's loader makes its own class, which lacks the method for the host.
    network.__class__ = HostUpsampler
    # Older hosts and their nodes call the network directly.
    if not MANAGED:
        return network
    remember_dtypes(network)
    return make_patcher(network, host.get_torch_device(), host.unet_offload_device())


class HostUpsampler(LatentUpsampler):
    """The network of a latent upscaler with the method ``get_dtype``, which ComfyUI calls."""

    def get_dtype(self) -> torch.dtype:
        """The dtype of the weights, to which the caller has to convert latents."""
        weight: Tensor = self.initial_conv.weight
        return weight.dtype
