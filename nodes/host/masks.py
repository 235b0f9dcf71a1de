"""Noise masks of the host in one form: per latent frame, and of our own."""

from __future__ import annotations

from typing import Any

import comfy.utils
import torch
from torch import Tensor


def frame_mask(video: dict[str, Any]) -> Tensor:
    """A copy of the noise mask of a video LATENT with one entry per latent frame, or ones (B, 1, F, 1, 1).

    Masks of pictures and masks that are constant in time are brought to the latent's size as the host would.
    """
    samples, mask = video["samples"], video.get("noise_mask")
    batch, _, frames = samples.shape[:3]
    if mask is None:
        return torch.ones(batch, 1, frames, 1, 1, device=samples.device)
    if mask.ndim == 5 and mask.shape[2] == frames:
        return mask.clone()
    return comfy.utils.reshape_mask(mask, samples.shape)[:, :1].to(samples.device)
