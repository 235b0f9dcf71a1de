"""Attention, feed-forward and text projection, under the checkpoint's parameter names.

Letters: B batch, N query tokens, S context tokens, H heads, D head width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ..attention import attention
from ..types import LayerOptions
from .products import products
from .rope import Rope, rotate_heads

GateHeads = Callable[[Tensor, Tensor], Tensor]
"""Values (B, N, H, D) and logits (B, N, H) -> the values, multiplied in place by 2 sigmoid(logits)."""


def rms_norm(x: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x²) + eps) over the last axis, without a weight; the mean is computed in float32.

    Zhang and Sennrich 2019, arXiv 1910.07467.
    """
    return F.rms_norm(x, x.shape[-1:], eps=eps)


class Attention(nn.Module):
    """Multi-head attention; queries and keys are RMS-normalised over all heads together, then rotated.

    ``query_dim`` and ``context_dim`` are the widths of what queries and keys are made from; there are
    ``heads`` heads of ``head_dim`` channels. With ``gated``, each head of each token is multiplied by a gate
    in (0, 2) that is computed from the query input. ``operations`` is a namespace of layer classes like
    ``torch.nn``.
    """

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
        layer: LayerOptions = {"dtype": dtype, "device": device}
        inner = heads * head_dim
        # A namespace of layers that a host brings may lack this norm.
        rms_norm_class = getattr(operations, "RMSNorm", nn.RMSNorm)
        self.heads = heads
        self.to_q = operations.Linear(query_dim, inner, **layer)
        self.to_k = operations.Linear(context_dim, inner, **layer)
        self.to_v = operations.Linear(context_dim, inner, **layer)
        # The norm spans all heads and comes before the rotation; one norm per head, as in most other
        # networks, would need weights of another size. ComfyUI has an epsilon of 1e-5 here, released headers
        # say 1e-6.
        self.q_norm = rms_norm_class(inner, eps=qk_norm_eps, **layer)
        self.k_norm = rms_norm_class(inner, eps=qk_norm_eps, **layer)
        # A sequence of one, since the checkpoint calls it to_out.0.
        self.to_out = nn.Sequential(operations.Linear(inner, query_dim, **layer))
        self.to_gate_logits = operations.Linear(query_dim, heads, **layer) if gated else None

    def forward(self, x: Tensor, *, rope: Rope | None = None) -> Tensor:
        """Self-attention: x (B, N, query_dim) -> (B, N, query_dim).

        ``rope`` rotates queries and keys; None does not.
        """
        return self.attend(x, *self.keys_values(x, rope), rope=rope)

    def attend(self, x: Tensor, keys: Tensor, values: Tensor, *, rope: Rope | None = None) -> Tensor:
        """Attention of x (B, N, query_dim) to ``keys`` and ``values`` (B, H, S, D) -> (B, N, query_dim).

        ``rope`` rotates the queries; None does not.
        """
        return self.output(attention(self.queries(x, rope), keys, values), x)

    def queries(self, x: Tensor, rope: Rope | None) -> Tensor:
        """Queries (B, H, N, D) of x (B, N, query_dim), RMS-normalised and, with ``rope``, rotated."""
        return self.normed(self.to_q(x), self.q_norm, rope)

    def keys(self, source: Tensor, rope: Rope | None) -> Tensor:
        """Keys (B, H, S, D) of source (B, S, context_dim), RMS-normalised and, with ``rope``, rotated."""
        return self.normed(self.to_k(source), self.k_norm, rope)

    def values(self, source: Tensor) -> Tensor:
        """Values (B, H, S, D) of source (B, S, context_dim)."""
        return self.by_head(self.to_v(source))

    def keys_values(self, source: Tensor, rope: Rope | None) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, S, D) of source (B, S, context_dim).

        Keys are RMS-normalised and, with ``rope``, rotated.
        """
        # One after the other, so that an output is freed before the next is computed.
        outputs = products(source, self.to_k, self.to_v)
        return self.normed(next(outputs), self.k_norm, rope), self.by_head(next(outputs))

    def queries_keys_values(self, x: Tensor, rope: Rope | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, H, N, D) of the same x (B, N, width), for self-attention.

        Queries and keys are RMS-normalised and, with ``rope``, rotated.
        """
        outputs = products(x, self.to_q, self.to_k, self.to_v)
        return (
            self.normed(next(outputs), self.q_norm, rope),
            self.normed(next(outputs), self.k_norm, rope),
            self.by_head(next(outputs)),
        )

    def output(
        self, attended: Tensor, x: Tensor, gate: GateHeads | None = None, logits: Tensor | None = None
    ) -> Tensor:
        """Project attended values (B, H, N, D) of all heads to (B, N, query_dim).

        With ``gated``, each head is first multiplied by its gate, of which the ``logits`` (B, N, H) are
        computed from x (B, N, query_dim) unless they are passed; ``gate`` computes that in place in another
        way than separate operations.
        """
        out = rearrange(attended, "b h n d -> b n h d")
        del attended
        if self.to_gate_logits is not None:
            logits = self.to_gate_logits(x) if logits is None else logits
            # Twice a sigmoid, so that logits of 0 leave the heads as they are. Autograd needs the factors of
            # a product, so that they are written into only where it is off.
            if gate is not None:
                out = gate(out, logits)
            elif torch.is_grad_enabled():
                out = out * (2 * torch.sigmoid(logits)).unsqueeze(-1)
            else:
                out = out.mul_(logits.sigmoid_().mul_(2).unsqueeze(-1))
        result: Tensor = self.to_out(out.flatten(-2))
        return result

    @property
    def is_plain(self) -> bool:
        """Whether gates of heads and the layer ``to_out[0]`` are all of :meth:`output`: nothing is hooked."""
        return _unchanged((self, Attention), (self.to_out, nn.Sequential)) and len(self.to_out) == 1

    def normed(self, projected: Tensor, norm: nn.Module, rope: Rope | None) -> Tensor:
        """Normalise ``projected`` (B, N, H D) by ``norm``, split the heads, rotate -> (B, H, N, D).

        ``rope`` rotates; None does not.
        """
        normed = norm(projected)
        return self.by_head(normed) if rope is None else rotate_heads(normed, rope, self.heads)

    def by_head(self, projected: Tensor) -> Tensor:
        """Split the heads: (B, N, H D) -> (B, H, N, D), for H heads of width D."""
        heads: Tensor = projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return heads


class FeedForward(nn.Module):
    """Feed-forward network: linear from ``width`` to four times that, tanh-GELU, linear back."""

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
        layer: LayerOptions = {"dtype": dtype, "device": device}
        # The checkpoint's numbering counts a dropout here.
        self.net = nn.Sequential(
            _GELUProjection(operations.Linear(width, 4 * width, bias=bias, **layer)),
            nn.Identity(),
            operations.Linear(4 * width, width, bias=bias, **layer),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, width) -> their update (B, N, width)."""
        result: Tensor = self.net(x)
        return result

    @property
    def first(self) -> Any:
        """The linear layer before the GELU."""
        return self.net[0].proj

    @property
    def is_plain(self) -> bool:
        """Whether :attr:`first`, a GELU and :meth:`after_gelu` are all of it: none is replaced or hooked."""
        inner = (self.net[0], _GELUProjection), (self.net[1], nn.Identity)
        return _unchanged((self, FeedForward), (self.net, nn.Sequential), *inner)

    def gelu(self, x: Tensor) -> Tensor:
        """The layer :attr:`first` and its GELU: tokens (B, N, width) -> (B, N, 4 width)."""
        result: Tensor = self.net[0](x)
        return result

    @property
    def last(self) -> Any:
        """The linear layer after the GELU."""
        return self.net[2]

    def after_gelu(self, hidden: Tensor) -> Tensor:
        """The rest of :meth:`forward` for ``hidden`` (B, N, 4 width), what the GELU returns."""
        result: Tensor = self.last(hidden)
        return result


def _unchanged(*parts: tuple[nn.Module, type[nn.Module]]) -> bool:
    """Whether each of the modules is of its own class, no subclass of it, and nothing changes its call."""
    return all(
        type(part) is kind and not ("forward" in vars(part) or part._forward_pre_hooks or part._forward_hooks)
        for part, kind in parts
    )


class _GELUProjection(nn.Module):
    def __init__(self, proj: nn.Module) -> None:
        super().__init__()
        self.proj = proj

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.proj(x)
        if torch.is_grad_enabled():
            return F.gelu(hidden, approximate="tanh")
        # Four times as wide as the stream, this is the largest activation of a block.
        in_place: Tensor = torch.ops.aten.gelu_(hidden, approximate="tanh")
        return in_place


class CaptionProjection(nn.Module):
    """Projection of text features from ``text_dim`` to ``width``, that of a stream (LTX-2.0).

    It is two linear layers with a tanh-GELU between.
    """

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
        """Text features (B, S, text_dim) -> (B, S, width), S text tokens."""
        result: Tensor = self.linear_2(F.gelu(self.linear_1(x), approximate="tanh"))
        return result
