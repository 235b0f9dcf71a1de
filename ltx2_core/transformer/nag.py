"""Normalized attention guidance: a negative prompt read beside the positive one, inside every block.

Letters: B batch, N tokens, S text tokens, K text width, W stream width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class NegativeText:
    """The text to keep away from (B, S, K), and how far: Chen et al. 2025 (arXiv 2505.21179).

    ``scale`` 1 is neutral; ``tau`` bounds the growth of a token, ``alpha`` is the share of the result.
    """

    context: Tensor
    scale: float
    alpha: float
    tau: float

    def guide(self, positive: Tensor, negative: Tensor) -> Tensor:
        """What a block adds for the text, (B, N, W), from what it would add for either text.

        The extrapolation of a token is shrunk until its L1 norm is at most ``tau`` times the positive one.
        """
        guided = self.scale * positive - (self.scale - 1) * negative
        growth = _length(guided) / _length(positive).clamp_min(1e-6)
        guided = guided * (self.tau / growth.clamp_min(self.tau)).to(guided.dtype)
        return self.alpha * guided + (1 - self.alpha) * positive


def _length(x: Tensor) -> Tensor:
    """L1 norm of each token, float32."""
    return x.float().abs().sum(dim=-1, keepdim=True)
