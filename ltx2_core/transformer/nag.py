"""Normalized attention guidance: attention to a negative prompt next to the positive one, in every block.

Letters: B batch, N tokens, S text tokens, K text width, W stream width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class NegativeText:
    """A negative text and the strength of its guidance in attention (Chen et al. 2025, arXiv 2505.21179).

    ``context`` (B, S, K) is the encoded text. ``scale`` extrapolates from the negative to the positive text,
    1 is neutral. ``tau`` limits the L1 norm of a token's extrapolated update to that many times the norm of
    its positive update. ``alpha`` from 0 to 1 is the share of the extrapolated update in the result.
    """

    context: Tensor
    scale: float
    alpha: float
    tau: float

    def guide(self, positive: Tensor, negative: Tensor) -> Tensor:
        """Combine the updates (B, N, W) of attention to the positive and to the negative text into one.

        The extrapolated update of a token is scaled down until its L1 norm is at most ``tau`` times that of
        the positive update.
        """
        guided = self.scale * positive - (self.scale - 1) * negative
        # Padding or masked tokens may have an update of 0, whose ratio would be undefined.
        growth = _length(guided) / _length(positive).clamp_min(1e-6)
        guided = guided * (self.tau / growth.clamp_min(self.tau)).to(guided.dtype)
        return self.alpha * guided + (1 - self.alpha) * positive


def _length(x: Tensor) -> Tensor:
    """L1 norm of each token, (B, N, W) -> (B, N, 1) in float32."""
    # Sums of thousands of bfloat16 values lose their digits.
    return x.float().abs().sum(dim=-1, keepdim=True)
