"""Branches on fused kernels, which read and write the tokens of their stream less often.

Letters: B batch, N tokens, W stream width, H heads, D head width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .branches import Projections
from .chunks import Chunks
from .fused import Fused, can_fuse, has_gelu_product
from .in_place import InPlaceTokens
from .layers import Attention, FeedForward
from .modulation import Layout, ShiftScale, ShiftScaleGate, Ungated
from .packed import together
from .products import products
from .rope import Rope
from .texts import KeysValues

_AT_ONCE = 4096
"""Tokens up to which one product for several layers pays. Beyond, each product fills the device by itself,
and their results would be in memory together.
"""


class FusedTokens(InPlaceTokens):
    """Tokens ``x`` (B, N, W) of a stream, with norm and modulation in one kernel of ``fused``.

    The update of a branch that covers all tokens is not added at once. It is stored with its gate, and the
    kernel that normalises the tokens for the next branch adds it, which saves one round trip through memory.
    ``chunks`` says how many tokens are computed at a time, ``eps`` is the epsilon of the norms.
    """

    def __init__(self, fused: Fused, chunks: Chunks, x: Tensor, eps: float) -> None:
        super().__init__(chunks, x, eps)
        self._fused = fused
        self._pending: tuple[ShiftScaleGate, Tensor] | None = None
        self.projections = FusedProjections(fused)

    @property
    def x(self) -> Tensor:
        if self._pending is not None:
            (by, update), self._pending = self._pending, None
            super()._write(by, update, None)
        return self._x

    def hidden(self, by: ShiftScale | Ungated, part: slice | None = None) -> Tensor:
        # Without scale and shift a pending update is added first, as x is read.
        if isinstance(by, Ungated):
            return super().hidden(by, part)
        if part is None and self._can_join(by.layout):
            return self._add_and_read(by)
        # A part of the tokens cannot take an update that is held for all of them; reading x adds it.
        x = self._part(part)
        hidden = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        return by.layout.apply(
            lambda out, _, x, scale, shift: self._fused.norm_modulate(x, scale, shift, self._eps, out=out),
            (hidden, x),
            (by.scale, by.shift),
            start=0 if part is None else part.start,
            in_place=True,
        )

    def _can_join(self, layout: Layout) -> bool:
        """Whether the kernel that reads tokens of ``layout`` can add the pending update, if there is one."""
        if self._pending is None or not self._pending[0].layout.alike(layout):
            return False
        # A formula allocates, and after a failure in a later segment the first ones would be added again.
        return len(layout.segments) == 1 or self._fused.compiled

    def _add_and_read(self, by: ShiftScale) -> Tensor:
        """Add the pending update and return :meth:`hidden` of all tokens, by one kernel for each segment."""
        assert self._pending is not None
        before, update = self._pending

        def formula(
            out: Tensor | None,
            _: Tensor,
            x: Tensor,
            update: Tensor,
            gate: Tensor,
            scale: Tensor,
            shift: Tensor,
        ) -> Tensor:
            return self._fused.add_norm_modulate(x, update, gate, scale, shift, self._eps, out=out)

        hidden = torch.empty(self._x.shape, dtype=self._x.dtype, device=self._x.device)
        parameters = (before.gate, by.scale, by.shift)
        by.layout.apply(formula, (hidden, self._x, update), parameters, start=0, in_place=True)
        self._pending = None
        return hidden

    def _write(self, by: ShiftScaleGate | Ungated, update: Tensor, part: slice | None) -> None:
        # Chunks are written at once, so that each can be computed again when memory runs out.
        if part is not None or isinstance(by, Ungated):
            super()._write(by, update, part)
        else:
            # Reading x first adds an update that no branch has read yet.
            self._x, self._pending = self.x, (by, update)


class FusedProjections(Projections):
    """Computes queries, keys, values and updates in fewer kernels than :class:`Projections`.

    Norm and rotation are one kernel, and so are the gates of heads. Layers whose weights are consecutive in
    memory are one matrix product.
    """

    def __init__(self, fused: Fused) -> None:
        self._fused = fused

    def queries(self, attention: Attention, x: Tensor, rope: Rope | None) -> Tensor:
        return self._normed(attention, attention.to_q(x), attention.q_norm, rope)

    def keys_values(self, attention: Attention, source: Tensor, rope: Rope | None) -> KeysValues:
        outputs = _outputs(source, attention.to_k, attention.to_v)
        keys = self._normed(attention, next(outputs), attention.k_norm, rope)
        return keys, attention.by_head(next(outputs))

    def queries_keys_values(
        self, attention: Attention, x: Tensor, rope: Rope | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        # One after the other, so that an output is freed before the next is computed.
        outputs = _outputs(x, attention.to_q, attention.to_k, attention.to_v)
        queries = self._normed(attention, next(outputs), attention.q_norm, rope)
        keys = self._normed(attention, next(outputs), attention.k_norm, rope)
        return queries, keys, attention.by_head(next(outputs))

    def feed_forward(self, layer: nn.Module, hidden: Tensor) -> Tensor:
        # A layer of a host, or one that a pack replaces, is called as it is.
        if (
            not isinstance(layer, FeedForward)
            or not layer.is_plain
            or not has_gelu_product(layer.first, hidden)
        ):
            return super().feed_forward(layer, hidden)
        return layer.after_gelu(self._fused.gelu_product(hidden, layer.first))

    def output(self, attention: Attention, attended: Tensor, hidden: Tensor) -> Tensor:
        return attention.output(attended, hidden, self._fused.gate_heads)

    def _normed(self, attention: Attention, projected: Tensor, norm: nn.Module, rope: Rope | None) -> Tensor:
        # A norm of a host may cast or load its weight when it is called, which a kernel cannot do.
        if rope is None or not can_fuse(norm, projected):
            return attention.normed(projected, norm, rope)
        return self._fused.norm_rotate(projected, norm, rope, attention.heads)


def _outputs(x: Tensor, *layers: Any) -> Iterator[Tensor]:
    """The outputs of linear ``layers`` for the same x (B, N, W).

    They are parts of one matrix product if the weights are consecutive in memory, for at most 4096 tokens.
    """
    weights = together(layers) if x.shape[0] * x.shape[1] <= _AT_ONCE else None
    if weights is None:
        return products(x, *layers)
    return iter(F.linear(x, *weights).split([len(layer.weight) for layer in layers], dim=-1))
