"""Filters on latents: matching of channel statistics (AdaIN) and tone mapping.

B batch, C channels, f h w latent frames, rows and columns; tensors are (B, C, f, h, w).
"""

from __future__ import annotations

import torch
from torch import Tensor


def adain(x: Tensor, reference: Tensor, *, factor: float = 1.0, per_frame: bool = False) -> Tensor:
    """Move each channel's mean and standard deviation towards those of the reference.

    Returns x + factor (y - x), where y is x with the reference's statistics (adaptive instance normalisation,
    Huang and Belongie 2017). x is (B, C, f, h, w), reference (B, C, f', h', w'): latent frames, rows and
    columns. Statistics are taken over the whole clip. With ``per_frame`` they are taken over each latent
    frame, and frame n of x is matched to frame n of the reference, or to its only frame if it has one. A
    constant channel becomes the reference's mean. With ``per_frame`` a reference of more than one latent
    frame, but of fewer than x, raises ValueError.
    """
    dims = (3, 4) if per_frame else (2, 3, 4)
    if per_frame and reference.shape[2] > 1:
        if reference.shape[2] < x.shape[2]:
            raise ValueError(
                f"per_frame needs a reference of 1 frame or of at least {x.shape[2]}; "
                f"got {reference.shape[2]}, use per_frame=False"
            )
        reference = reference[:, :, : x.shape[2]]
    # Moments of thousands of values lose their digits in half precision.
    source, target = x.float(), reference.float()
    mean, std = _moments(source, dims)
    target_mean, target_std = _moments(target, dims)
    # The deviation of a constant channel is rounding error, which the division must not amplify.
    floor = 1e-5 * mean.abs() + torch.finfo(torch.float32).tiny
    y = (source - mean) / std.clamp_min(floor) * target_std + target_mean
    return (source + factor * (y - source)).to(x.dtype)


def tone_map(x: Tensor, compression: float) -> Tensor:
    """Compress large values of a latent by a smooth curve; ``compression`` is in [0, 1], 0 changes nothing.

    Returns x (1 - 0.8 s sigmoid(4 s (|x| - 1))) with s = 0.75 compression, for x of any shape, as in
    diffusers' LTX-2 pipeline. Raises ValueError for a compression outside [0, 1].
    """
    if not 0 <= compression <= 1:
        raise ValueError(f"tone map compression must lie in [0, 1]; got {compression}")
    strength = 0.75 * compression
    return x * (1 - 0.8 * strength * torch.sigmoid(4 * strength * (x.abs() - 1)))


def _moments(x: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean and unbiased standard deviation of x (B, C, f, h, w) over ``dims``, (3, 4) or (2, 3, 4).

    Both have the axes of x, with size 1 in ``dims``. The deviation of a single value is 0, not NaN.
    """
    mean = x.mean(dims, keepdim=True)
    values = x[0, 0].numel() if len(dims) == 3 else x[0, 0, 0].numel()
    return mean, x.std(dims, keepdim=True) if values > 1 else torch.zeros_like(mean)
