"""Latent upscalers as the host's LATENT_UPSCALE_MODEL, which is a bare network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.model_management
import torch

from ...ltx2_core.loading.checkpoint import open_checkpoint
from ...ltx2_core.loading.detect import Component


def load_upscaler(path: str | Path) -> Any:
    """The upscaler of a file, in the dtype that the host uses for VAEs; nodes move it to a device themselves.

    Raises ValueError if the file holds none or its weights do not fit.
    """
    dtype = comfy.model_management.vae_dtype(allowed_dtypes=[torch.bfloat16, torch.float32])
    return open_checkpoint(path).load(Component.UPSAMPLER, dtype=dtype)
