"""Branches on fused kernels, which read and write the tokens of their stream less often.

Letters: B batch, N tokens, W stream width, H heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .branches import Projections, Target
from .chunks import Chunks
from .fused import Fused, can_fuse, has_gelu_product
from .in_place import InPlaceTokens
from .layers import Attention, FeedForward
from .modulation import Layout, Modulation, ShiftScale, ShiftScaleGate, Ungated
from .packed import together
from .products import products
from .rope import Rope
from .texts import KeysValues

Pending = tuple[ShiftScaleGate, Tensor]
"""The gate of an update (B, N, W) that is not added yet, and the update."""


class BetweenBlocks:
    """The update of a block's last branch for one stream, until the next block or the head adds it."""

    def __init__(self) -> None:
        self._held: tuple[Tensor, Pending] | None = None

    def hold(self, x: Tensor, pending: Pending) -> None:
        self._held = x, pending

    def take(self, x: Tensor) -> Pending | None:
        """What was held for the tokens x (B, N, W), the last ones; None if nothing was."""
        held, self._held = self._held, None
        if held is None:
            return None
        assert held[0] is x, "tokens were replaced between two blocks, before their update was added"
        return held[1]


class FusedTokens(InPlaceTokens):
    """Tokens ``x`` (B, N, W) of a stream, with norm and modulation in one kernel of ``fused``.

    The update of a branch that covers all tokens is not added at once. It is stored with its gate, and the
    kernel that normalises the tokens for the next branch adds it, which saves one round trip through memory.
    Where two attentions read the same tokens, each by its own modulation, one kernel reads them for both.
    ``chunks`` says how many tokens are computed at a time, ``eps`` is the epsilon of the norms. ``between``
    takes an update that no branch of the block has added to the next block; without it (None) the block adds
    it, as it has to where something reads the tokens between two blocks.
    """

    def __init__(
        self, fused: Fused, chunks: Chunks, between: BetweenBlocks | None, x: Tensor, eps: float
    ) -> None:
        super().__init__(chunks, x, eps)
        self._fused, self._between = fused, between
        self._pending = None if between is None else between.take(x)
        self._ahead: tuple[ShiftScale, Tensor] | None = None
        self.projections = FusedProjections(fused)

    @property
    def x(self) -> Tensor:
        if self._pending is not None:
            (by, update), self._pending = self._pending, None
            super()._write(by, update, None)
        return self._x

    def leave(self) -> Tensor:
        if self._between is None or self._pending is None:
            return self.x
        self._between.hold(self._x, self._pending)
        return self._x

    def hidden(self, by: ShiftScale | Ungated, part: slice | None = None) -> Tensor:
        # Without scale and shift a pending update is added first, as x is read.
        if isinstance(by, Ungated):
            return super().hidden(by, part)
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] is by and part is None:
            return ahead[1]
        # Its memory is needed for the tokens that are read in its place.
        del ahead
        if part is None and self._can_join(by.layout):
            return self._read(by)
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

    def _hidden_of_keys(self, by: ShiftScale, queries: ShiftScale | None, part: slice | None) -> Tensor:
        if part is not None or queries is None:
            return self.hidden(by, part)
        return self._read(by, queries)

    def _read(self, by: ShiftScale, queries: ShiftScale | None = None) -> Tensor:
        """Return :meth:`hidden` of all tokens, and hold that of ``queries``, which is read next.

        A pending update is added by the same kernel where it can be; there is one kernel for each segment.
        """
        joins = self._can_join(by.layout)
        # Reading x adds an update that cannot be joined.
        x = self._x if joins else self.x
        hidden = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        tensors, parameters = [hidden, x], [by.scale, by.shift]
        if joins:
            assert self._pending is not None
            before, update = self._pending
            tensors.append(update)
            parameters.append(before.gate)
        if queries is not None:
            tensors.append(torch.empty_like(hidden))
            parameters += [queries.scale, queries.shift]

        def formula(out: Tensor | None, _: Tensor, x: Tensor, *given: Tensor) -> Tensor:
            values = iter(given)
            update = next(values) if joins else None
            room = next(values) if queries is not None else None
            read = next(values), next(values)
            gate = next(values) if joins else None
            other = () if room is None else (next(values), next(values), room)
            if update is None or gate is None:
                return self._fused.norm_modulate(x, *read, self._eps, out=out, other=other)
            return self._fused.add_norm_modulate(x, update, gate, *read, self._eps, out=out, other=other)

        by.layout.apply(formula, tuple(tensors), tuple(parameters), start=0, in_place=True)
        if joins:
            self._pending = None
        if queries is not None:
            self._ahead = queries, tensors[-1]
        return hidden

    def _target(self, by: ShiftScaleGate | Ungated, part: slice | None) -> Target | None:
        # One gate for all tokens of a sample; without a gate the update would be multiplied for nothing.
        if part is not None or isinstance(by, Ungated) or not by.uniform or by.gate[0].shape[1] != 1:
            return None
        # Reading x adds an update that no branch has read yet.
        return Target(self.x, by.gate[0])

    def _write(self, by: ShiftScaleGate | Ungated, update: Tensor | None, part: slice | None) -> None:
        self._ahead = None
        # Chunks are written at once, so that each can be computed again when memory runs out.
        if update is None or part is not None or isinstance(by, Ungated):
            super()._write(by, update, part)
        else:
            # Reading x first adds an update that no branch has read yet.
            self._x, self._pending = self.x, (by, update)


class FusedProjections(Projections):
    """Computes queries, keys, values and updates in fewer kernels than :class:`Projections`.

    Norm and rotation are one kernel, for queries and keys together, and so are the gates of heads. Layers
    whose weights are consecutive in memory are one matrix product; its output is held once, as queries and
    keys are normalised and rotated where they are. The last product of a branch adds its update to the tokens
    where that takes less time.
    """

    def __init__(self, fused: Fused) -> None:
        self._fused = fused

    def queries(self, attention: Attention, x: Tensor, rope: Rope | None) -> tuple[Tensor, Tensor | None]:
        joint = _joint(x, attention.to_gate_logits, attention.to_q)
        logits, projected = joint or (None, attention.to_q(x))
        return self._normed(attention, projected, attention.q_norm, rope), logits

    def keys_values(self, attention: Attention, source: Tensor, rope: Rope | None) -> KeysValues:
        layers = attention.to_k, attention.to_v
        outputs = iter(_joint(source, *layers) or products(source, *layers))
        keys = self._normed(attention, next(outputs), attention.k_norm, rope)
        return keys, attention.by_head(next(outputs))

    def queries_keys_values(
        self, attention: Attention, x: Tensor, rope: Rope | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        layers, logits = (attention.to_q, attention.to_k, attention.to_v), None
        joint = _joint(x, attention.to_gate_logits, *layers)
        if joint is not None:
            logits, *joint = joint
        outputs = iter(joint or _joint(x, *layers) or products(x, *layers))
        q, k = next(outputs), next(outputs)
        norms = attention.q_norm, attention.k_norm
        if rope is None or norms[0].eps != norms[1].eps or not all(map(can_fuse, norms, (q, k))):
            queries, keys = (self._normed(attention, *own, rope) for own in ((q, norms[0]), (k, norms[1])))
        else:
            self._fused.norm_rotate(q, norms[0], rope, attention.heads, other=k, other_norm=norms[1])
            queries, keys = attention.by_head(q), attention.by_head(k)
        return queries, keys, attention.by_head(next(outputs)), logits

    def feed_forward(self, layer: nn.Module, hidden: Tensor, into: Target | None = None) -> Tensor | None:
        # A layer of a host, or one that a pack replaces, is called as it is.
        if not isinstance(layer, FeedForward) or not layer.is_plain:
            return super().feed_forward(layer, hidden)
        joins = has_gelu_product(layer.first, hidden)
        inner = self._fused.gelu_product(hidden, layer.first) if joins else layer.gelu(hidden)
        if into is not None and self._fused.add_product(into.x, into.gate, inner, None, layer.last):
            return None
        return layer.after_gelu(inner)

    def output(
        self,
        attention: Attention,
        attended: Tensor,
        hidden: Tensor,
        logits: Tensor | None = None,
        into: Target | None = None,
    ) -> Tensor | None:
        if into is not None and attention.is_plain:
            if logits is None and attention.to_gate_logits is not None:
                logits = attention.to_gate_logits(hidden)
            values = attended.transpose(1, 2).flatten(-2)
            if self._fused.add_product(into.x, into.gate, values, logits, attention.to_out[0]):
                return None
            # What follows reads the heads where they are now, which may be a copy.
            attended = attention.by_head(values)
            del values
        return attention.output(attended, hidden, self._fused.gate_heads, logits)

    def _normed(self, attention: Attention, projected: Tensor, norm: nn.Module, rope: Rope | None) -> Tensor:
        # A norm of a host may cast or load its weight when it is called, which a kernel cannot do.
        if rope is None or not can_fuse(norm, projected):
            return attention.normed(projected, norm, rope)
        self._fused.norm_rotate(projected, norm, rope, attention.heads)
        return attention.by_head(projected)


def _joint(x: Tensor, *layers: Any) -> list[Tensor] | None:
    """The outputs of linear ``layers`` for the same x (B, N, W), as parts of one matrix product.

    None if the weights are not consecutive in memory, or if a layer is None.
    """
    weights = together(layers)
    if weights is None:
        return None
    return list(F.linear(x, *weights).split([len(layer.weight) for layer in layers], dim=-1))


def plus_tables(fused: Fused, terms: Sequence[tuple[Modulation, Tensor]]) -> list[Tensor]:
    """The result of :meth:`Modulation.plus` for one to three modulations and tables, by one kernel."""
    if not all(_fit(modulation, table) for modulation, table in terms):
        return [modulation.plus(table) for modulation, table in terms]
    sums = fused.add_tables(*((m.values.flatten(0, -3), table, m.ones) for m, table in terms))
    return [total.view(m.values.shape) for total, (m, _) in zip(sums, terms, strict=True)]


def _fit(modulation: Modulation, table: Tensor) -> bool:
    values = modulation.values
    # The value of a network without a layer for it is one number, which broadcasts over the table.
    return values.shape[-2:] == table.shape and (values.dtype, values.device) == (table.dtype, table.device)
