"""Denoise masks: 1 where to generate, 0 where to preserve, between where to regenerate partly.

Letters: B batch, F latent frames, H W latent rows and columns, T audio latent frames, N tokens.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from ..types import AVLatent


def mask_like(latent: AVLatent, value: float = 1.0) -> AVLatent:
    """A float32 mask filled with ``value`` for ``latent``: video (B, 1, F, H, W) and audio (B, 1, T, 1).

    What the latent lacks (None), the mask lacks too.
    """
    return latent.map(lambda x: x.new_full(_mask_shape(x), value).float())


def expand_mask(mask: AVLatent, latent: AVLatent) -> AVLatent:
    """Expand masks to the shapes of ``latent``: video (B, 1, F, H, W) and audio (B, 1, T, 1).

    The results are views that share memory. There is one value for all channels, and for all mel bins,
    because a token is noised as a whole. Raises ValueError for a mask that does not broadcast to its shape.
    """

    def expand(mask: Tensor, latent: Tensor) -> Tensor:
        shape = _mask_shape(latent)
        try:
            return mask.expand(shape)
        except RuntimeError:
            raise ValueError(
                f"a mask of shape {tuple(mask.shape)} does not fit a latent of shape {tuple(latent.shape)}: "
                f"it must broadcast to {shape}"
            ) from None

    return mask.zip(latent, expand)


def token_mask(mask: Tensor) -> Tensor:
    """One mask value for each token, (B, tokens).

    ``mask`` is that of a video (B, 1, F, H, W) or of audio (B, 1, T, 1).
    """
    return rearrange(mask, "b 1 ... -> b (...)")


def blend(clean: AVLatent, x: AVLatent, mask: AVLatent) -> AVLatent:
    """Mix two latents by a mask, ``mask * x + (1 - mask) * clean``; exact where the mask is 0 or 1.

    The mask must broadcast to both latents.
    """
    # Products with exactly 0 and 1 return preserved content bit for bit.
    # The official form. ComfyUI instead adds (1 - m) (clean - x_in) to the estimate. The difference is
    # m (1 - m) sigma v: nothing for a mask of 0 or 1.
    return x * mask + clean * mask.map(lambda m: 1 - m)


def mask_to_grid(mask: Tensor, frames: int, height: int, width: int) -> Tensor:
    """The mean of a pixel mask in each latent cell, (``frames``, ``height``, ``width``), as in ComfyUI.

    ``mask`` is (mask frames, pixel rows, pixel columns) in [0, 1], of any number of frames. A single mask
    frame serves all latent frames. Of several, the first belongs to the first latent frame. The rest are
    averaged in groups of equal size, one group for each later latent frame; mask frames at the end that fill
    no group are dropped. If there are fewer of them than later latent frames, they are repeated instead.
    """
    # The mean, not the maximum: a fractional mask regenerates a cell partly.
    small = functional.interpolate(mask[:, None], size=(height, width), mode="area")[:, 0]
    # The first latent frame stands for one pixel frame, so that it takes the first mask frame alone.
    first, rest = small[:1], small[1:]
    if frames == 1:
        return first
    if len(rest) == 0:
        return first.expand(frames, -1, -1)
    group = len(rest) // (frames - 1)
    if group:
        # Frames that fill no whole group at the end are dropped, as in ComfyUI.
        rest = rearrange(rest[: group * (frames - 1)], "(f g) h w -> f g h w", g=group).mean(dim=1)
    else:
        flat = rearrange(rest, "f h w -> (h w) 1 f")
        rest = rearrange(functional.interpolate(flat, size=frames - 1), "(h w) 1 f -> f h w", h=height)
    return torch.cat((first, rest))


def _mask_shape(latent: Tensor) -> tuple[int, ...]:
    batch, _, *cells = latent.shape
    # Audio latents have four axes, and their mel bins share one mask value.
    if latent.ndim == 4:
        cells[-1] = 1
    return batch, 1, *cells
