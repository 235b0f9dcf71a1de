"""Denoise masks: 1 where to generate, 0 where to keep, in between where to renew partly.

Letters: B batch, F latent frames, H W latent rows and columns, T audio latent frames, N tokens.
"""

from __future__ import annotations

from einops import rearrange
from torch import Tensor

from ..types import AVLatent


def mask_like(latent: AVLatent, value: float = 1.0) -> AVLatent:
    """A mask of one value, float32, on the latent's device: video (B, 1, F, H, W), audio (B, 1, T, 1)."""
    return latent.map(lambda x: x.new_full(_mask_shape(x), value).float())


def expand_mask(mask: AVLatent, latent: AVLatent) -> AVLatent:
    """Masks as video (B, 1, F, H, W) and audio (B, 1, T, 1), from any that broadcast to it, without copying.

    Raises ValueError for a mask that does not: the channels and mel bins of a cell are kept or made together.
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
    """An expanded mask per token: video (B, 1, F, H, W) or audio (B, 1, T, 1) -> (B, N)."""
    return rearrange(mask, "b 1 ... -> b (...)")


def blend(clean: AVLatent, x: AVLatent, mask: AVLatent) -> AVLatent:
    """``mask * x + (1 - mask) * clean``: bit-exact ``x`` where the mask is 1 and ``clean`` where it is 0."""
    return x * mask + clean * mask.map(lambda m: 1 - m)


def _mask_shape(latent: Tensor) -> tuple[int, ...]:
    batch, _, *cells = latent.shape
    if latent.ndim == 4:
        cells[-1] = 1
    return batch, 1, *cells
