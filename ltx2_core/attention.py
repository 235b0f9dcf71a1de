"""The one choice of attention backend.

Letters: B batch, H heads, T query tokens, S key tokens, D head width.
"""

import torch.nn.functional as F
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q kᵀ / √D + bias) v.

    q (B, H, T, D), k and v (B, H, S, D) -> (B, H, T, D). ``bias`` is additive and broadcasts to (B, H, T, S).
    """
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
