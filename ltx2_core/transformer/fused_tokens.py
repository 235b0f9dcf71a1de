"""Branches on fused kernels, which read and write the tokens of their stream less often.

Letters: B batch, N tokens, W stream width, H heads, D head width.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from .branches import Projections
from .chunks import Chunks
from .fused import Fused, can_fuse
from .in_place import InPlaceTokens
from .layers import Attention
from .modulation import ShiftScale, ShiftScaleGate, Ungated
from .packed import together
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
        self._pending: tuple[Tensor, Tensor] | None = None
        self.projections = FusedProjections(fused)

    @property
    def x(self) -> Tensor:
        if self._pending is not None:
            self._x.addcmul_(*self._pending)
            self._pending = None
        return self._x

    def hidden(self, by: ShiftScale | Ungated, part: slice | None = None) -> Tensor:
        # The kernels take one scale and shift a sample. Without them a pending update is added first, as x is
        # read.
        if isinstance(by, Ungated) or not by.uniform:
            return super().hidden(by, part)
        (scale,), (shift,) = by.scale, by.shift
        # A part of the tokens cannot take an update that is held for all of them; reading x adds it.
        if self._pending is None or part is not None:
            return self._fused.norm_modulate(self._part(part), scale, shift, self._eps)
        hidden = self._fused.add_norm_modulate(self._x, *self._pending, scale, shift, self._eps)
        self._pending = None
        return hidden

    def _write(self, by: ShiftScaleGate | Ungated, update: Tensor, part: slice | None) -> None:
        # Chunks are written at once, so that each can be computed again when memory runs out.
        if part is not None or isinstance(by, Ungated) or not by.uniform or self._fused.problem is not None:
            super()._write(by, update, part)
        else:
            (gate,) = by.gate
            # Reading x first adds an update that no branch has read yet.
            self._x, self._pending = self.x, (update, gate)


class FusedProjections(Projections):
    """Computes queries, keys and values in fewer kernels than :class:`Projections`.

    Norm and rotation are one kernel. Layers whose weights are consecutive in memory are one matrix product.
    """

    def __init__(self, fused: Fused) -> None:
        self._fused = fused

    def queries(self, attention: Attention, x: Tensor, rope: Rope | None) -> Tensor:
        return self._normed(attention, attention.to_q(x), attention.q_norm, rope)

    def keys_values(self, attention: Attention, source: Tensor, rope: Rope | None) -> KeysValues:
        both = _product(source, attention.to_k, attention.to_v)
        if both is None:
            keys = self._normed(attention, attention.to_k(source), attention.k_norm, rope)
            return keys, attention.values(source)
        return self._normed(attention, both[0], attention.k_norm, rope), attention.by_head(both[1])

    def queries_keys_values(
        self, attention: Attention, x: Tensor, rope: Rope | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        all_three = _product(x, attention.to_q, attention.to_k, attention.to_v)
        if all_three is None:
            return (self.queries(attention, x, rope), *self.keys_values(attention, x, rope))
        queries, keys, values = all_three
        return (
            self._normed(attention, queries, attention.q_norm, rope),
            self._normed(attention, keys, attention.k_norm, rope),
            attention.by_head(values),
        )

    def _normed(self, attention: Attention, projected: Tensor, norm: nn.Module, rope: Rope | None) -> Tensor:
        # A norm of a host may cast or load its weight when it is called, which a kernel cannot do.
        if rope is None or not can_fuse(norm):
            return attention.normed(projected, norm, rope)
        return self._fused.norm_rotate(projected, norm, rope, attention.heads)


def _product(x: Tensor, *layers: Any) -> tuple[Tensor, ...] | None:
    """The outputs of linear ``layers`` for the same x (B, N, W), by one matrix product.

    None if their weights are not consecutive in memory, or for more than 4096 tokens.
    """
    weights = together(layers) if x.shape[0] * x.shape[1] <= _AT_ONCE else None
    if weights is None:
        return None
    product: tuple[Tensor, ...] = F.linear(x, *weights).split([len(n.weight) for n in layers], dim=-1)
    return product
