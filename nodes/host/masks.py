"""Noise masks of the host in one form: an own copy with one entry per latent frame."""

from __future__ import annotations

import comfy.utils
import torch
from torch import Tensor

from .latents import Latent


def frame_mask(video: Latent) -> Tensor:
    """A copy of the noise mask of a video LATENT with one entry per latent frame, or ones (B, 1, F, 1, 1).

    Masks of images and masks that are constant in time are brought to the latent's size as the host would.
    """
    samples: Tensor = video["samples"]
    mask: Tensor | None = video.get("noise_mask")
    batch, _, frames = samples.shape[:3]
    if mask is None:
        return torch.ones(batch, 1, frames, 1, 1, device=samples.device)
    if mask.ndim == 5 and mask.shape[2] == frames:
        # Callers write into the mask, which other branches of the graph share.
        return mask.clone()
    reshaped: Tensor = comfy.utils.reshape_mask(mask, samples.shape)
    return reshaped[:, :1].to(samples.device)
