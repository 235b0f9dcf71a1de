"""Attention, feed-forward and text projection, under the checkpoint's parameter names.

Letters: B batch, N query tokens, S context tokens, H heads, D head width.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ..attention import attention
from .fused import Fused, can_fuse
from .guided import GuideBias, guided_attention
from .packed import together
from .perturbations import Keep
from .rope import Rope, rotate_heads
from .shards import Sharing

Bias = Tensor | GuideBias | None

_AT_ONCE = 4096
"""Tokens up to which one product for several layers pays; beyond, each fills the device, and what they make
together would stay in memory together.
"""


def rms_norm(x: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x²) + eps) over the last axis, without a weight; statistics in float32."""
    return F.rms_norm(x, x.shape[-1:], eps=eps)


class Attention(nn.Module):
    """Multi-head attention; queries and keys are RMS-normalised over all heads together, then rotated.

    With ``gated``, each head of each token is multiplied by a gate in (0, 2) read off the query input.
    ``fused`` norms and rotates in one kernel, where gradients are off.
    """

    fused: Fused | None = None

    def __init__(
        self,
        query_dim: int,
        context_dim: int,
        *,
        heads: int,
        head_dim: int,
        gated: bool = False,
        qk_norm_eps: float = 1e-6,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ) -> None:
        super().__init__()
        layer: dict[str, Any] = {"dtype": dtype, "device": device}
        inner = heads * head_dim
        rms_norm_class = getattr(operations, "RMSNorm", nn.RMSNorm)
        self.heads = heads
        self.to_q = operations.Linear(query_dim, inner, **layer)
        self.to_k = operations.Linear(context_dim, inner, **layer)
        self.to_v = operations.Linear(context_dim, inner, **layer)
        self.q_norm = rms_norm_class(inner, eps=qk_norm_eps, **layer)
        self.k_norm = rms_norm_class(inner, eps=qk_norm_eps, **layer)
        self.to_out = nn.Sequential(operations.Linear(inner, query_dim, **layer))
        self.to_gate_logits = operations.Linear(query_dim, heads, **layer) if gated else None

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        rope: Rope | None = None,
        context_rope: Rope | None = None,
        bias: Bias = None,
        keep: Keep = None,
        sharing: Sharing | None = None,
    ) -> Tensor:
        """x (B, N, query_dim), context (B, S, context_dim) or x itself -> (B, N, query_dim).

        ``bias`` is additive and broadcasts to (B, H, N, S), or is between a video and its guides. ``keep``
        (self-attention only) names the samples that attend; the others pass their values through, as
        spatio-temporal guidance wants.
        """
        rest: dict[str, Any] = {"rope": rope, "bias": bias, "keep": keep, "sharing": sharing}
        source = x if context is None else context
        source_rope = rope if context_rope is None else context_rope
        if keep is not None and not any(keep):
            values = self.values(source)
            return self.attend(x, None, values, own=values, **rest)
        made = self._at_once(x, self.to_q, self.to_k, self.to_v) if context is None else None
        if made is None:
            keys, values = self.keys_values(source, source_rope)
            return self.attend(x, keys, values, own=values, **rest)
        queries, keys, values = made
        del made
        keys, values = self._normed(keys, self.k_norm, source_rope), self._heads(values)
        return self.attend(x, keys, values, own=values, queries=queries, **rest)

    def keys_values(self, source: Tensor, rope: Rope | None) -> tuple[Tensor, Tensor]:
        """Both of them, from one product where the fused layers lie together."""
        made = self._at_once(source, self.to_k, self.to_v)
        if made is None:
            return self.keys(source, rope), self.values(source)
        return self._normed(made[0], self.k_norm, rope), self._heads(made[1])

    def keys(self, source: Tensor, rope: Rope | None) -> Tensor:
        """source (B, S, context_dim) -> (B, H, S, D), normalised and rotated."""
        return self._normed(self.to_k(source), self.k_norm, rope)

    def values(self, source: Tensor) -> Tensor:
        """source (B, S, context_dim) -> (B, H, S, D)."""
        return self._heads(self.to_v(source))

    def attend(
        self,
        x: Tensor,
        keys: Tensor | None,
        values: Tensor,
        *,
        rope: Rope | None = None,
        bias: Bias = None,
        keep: Keep = None,
        own: Tensor | None = None,
        sharing: Sharing | None = None,
        queries: Tensor | None = None,
    ) -> Tensor:
        """Queries x (B, N, query_dim) on ``keys`` and ``values`` (B, H, S, D) -> (B, N, query_dim).

        ``keys`` may be None where nobody attends; ``own`` (B, H, N, D) are the values of ``x``.
        ``queries`` (B, N, H D) are the projection of ``x``, where it is there already.
        With ``sharing`` x, keys and values are this process's part of the tokens, and attention is over all.
        """
        if keys is None:
            assert own is not None
            out = own
        else:
            q = self._normed(self.to_q(x) if queries is None else queries, self.q_norm, rope)
            del queries
            if sharing is None:
                out = _attention(q, keys, values, bias)
            else:
                out = sharing.attend(q, keys, values, partial(_attention, bias=bias))
            del q
            if keep is not None and not all(keep):
                assert own is not None
                out = torch.where(torch.tensor(keep, device=x.device)[:, None, None, None], out, own)
        del keys, values, own
        out = rearrange(out, "b h n d -> b n h d")
        if self.to_gate_logits is not None:
            logits = self.to_gate_logits(x)
            if torch.is_grad_enabled():
                out = out * (2 * torch.sigmoid(logits)).unsqueeze(-1)
            else:
                out = out.mul_(logits.sigmoid_().mul_(2).unsqueeze(-1))
        result: Tensor = self.to_out(out.flatten(-2))
        return result

    def _at_once(self, x: Tensor, *layers: Any) -> tuple[Tensor, ...] | None:
        """What ``layers`` make of x by one product; None where it is not for them, or would not pay."""
        if self.fused is None or torch.is_grad_enabled() or x.shape[0] * x.shape[1] > _AT_ONCE:
            return None
        found = together(layers)
        if found is None:
            return None
        made: tuple[Tensor, ...] = F.linear(x, *found).split([len(layer.weight) for layer in layers], dim=-1)
        return made

    def _normed(self, x: Tensor, norm: nn.Module, rope: Rope | None) -> Tensor:
        if self.fused is not None and rope is not None and can_fuse(norm):
            return self.fused.norm_rotate(x, norm, rope, self.heads)
        normed = norm(x)
        return self._heads(normed) if rope is None else rotate_heads(normed, rope, self.heads)

    def _heads(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return heads


def _attention(q: Tensor, k: Tensor, v: Tensor, bias: Bias) -> Tensor:
    if isinstance(bias, GuideBias):
        return guided_attention(q, k, v, bias)
    return attention(q, k, v, bias)


class FeedForward(nn.Module):
    """Linear to four times the width, tanh-GELU, linear back."""

    def __init__(
        self,
        width: int,
        *,
        bias: bool = True,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ) -> None:
        super().__init__()
        layer: dict[str, Any] = {"bias": bias, "dtype": dtype, "device": device}
        # The identity is where the checkpoint's numbering counts a dropout.
        self.net = nn.Sequential(
            _GELUProjection(operations.Linear(width, 4 * width, **layer)),
            nn.Identity(),
            operations.Linear(4 * width, width, **layer),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) -> (B, N, width)."""
        result: Tensor = self.net(x)
        return result


class _GELUProjection(nn.Module):
    def __init__(self, proj: nn.Module) -> None:
        super().__init__()
        self.proj = proj

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.proj(x)
        if torch.is_grad_enabled():
            return F.gelu(hidden, approximate="tanh")
        in_place: Tensor = torch.ops.aten.gelu_(hidden, approximate="tanh")
        return in_place


class CaptionProjection(nn.Module):
    """Text features to stream width (LTX-2.0)."""

    def __init__(
        self,
        text_dim: int,
        width: int,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ) -> None:
        super().__init__()
        self.linear_1 = operations.Linear(text_dim, width, dtype=dtype, device=device)
        self.linear_2 = operations.Linear(width, width, dtype=dtype, device=device)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, text_dim) -> (B, S, width)."""
        result: Tensor = self.linear_2(F.gelu(self.linear_1(x), approximate="tanh"))
        return result
