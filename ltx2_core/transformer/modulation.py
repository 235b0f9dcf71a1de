"""Adaptive layer norm: the shift, scale and gate of each branch of a block.

Every branch computes ``x + gate * branch(norm(x) * scale + shift)``. Shift, scale and gate are each the sum
of two vectors: one that is computed from the timestep, once for all blocks, and one that each block has
learned (Peebles and Xie 2023, arXiv 2212.09748; the sharing is that of PixArt-alpha, arXiv 2310.00426).

Letters: B batch, N tokens, W stream width, P modulation parameters, S segments of the tokens, G groups:
tokens that share one timestep.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from .timesteps import Bounds, Groups

Parameter = tuple[Tensor, ...]
"""One shift, scale or gate: a tensor (B, 1, W) for each segment of the tokens, or one of another layout."""


@dataclass(frozen=True)
class Layout:
    """Which token has which modulation parameters (shift, scale, gate).

    ``segments`` are intervals [start, stop) of the tokens. With several segments a parameter has one tensor
    (B, 1, W) for each. With one segment it is a single tensor: (B, 1, W) for all tokens, or (B, N, W).
    Without segments it is (G, W), a row for each distinct timestep, and ``index`` (B, N) is the row of every
    token.
    """

    segments: Bounds
    index: Tensor | None = None

    def alike(self, other: Layout) -> bool:
        """Whether parameters of this layout and of ``other`` can be applied to the same tokens at once."""
        if self.index is not None or other.index is not None:
            return self.index is other.index
        # The end of a single segment is not read.
        return self.segments == other.segments or len(self.segments) == len(other.segments) == 1

    def apply(
        self,
        formula: Callable[..., Tensor],
        tensors: tuple[Tensor, ...],
        parameters: tuple[Parameter, ...],
        *,
        start: int,
        in_place: bool,
    ) -> Tensor:
        """Call ``formula(out, *tensors, *parameters)`` with the parameters of each token; returns the result.

        ``tensors`` are (B, n, W), for n tokens of which the first is number ``start`` of the stream;
        ``parameters`` are those of all tokens. The formula writes its result to ``out``, or returns a new
        tensor if ``out`` is None. With ``in_place``, ``out`` is the first of ``tensors``.
        """
        target = tensors[0] if in_place else None
        if self.index is not None:
            # Looked up by branch, so that the parameters of all branches for all tokens never exist at once.
            index = self.index[:, start : start + tensors[0].shape[1]]
            return formula(target, *tensors, *(F.embedding(index, values) for (values,) in parameters))
        if len(self.segments) == 1:
            return formula(target, *tensors, *(values for (values,) in parameters))
        return self._by_segment(formula, tensors, parameters, start, target)

    def _by_segment(
        self,
        formula: Callable[..., Tensor],
        tensors: tuple[Tensor, ...],
        parameters: tuple[Parameter, ...],
        start: int,
        target: Tensor | None,
    ) -> Tensor:
        length = tensors[0].shape[1]
        # How many of these tokens are in each segment that they touch, by its number.
        sizes = {
            number: min(last, start + length) - max(first, start)
            for number, (first, last) in enumerate(self.segments)
            if first < start + length and last > start
        }
        split = [t.split(list(sizes.values()), dim=1) for t in tensors]
        local = [[values[number] for values in parameters] for number in sizes]
        # Functions with out= have no gradients, so that the pieces are joined instead.
        if torch.is_grad_enabled():
            pieces = zip(*split, strict=True)
            results = [formula(None, *piece, *values) for piece, values in zip(pieces, local, strict=True)]
            return torch.cat(results, dim=1)
        out = torch.empty_like(tensors[0]) if target is None else target
        targets: Sequence[Tensor] = split[0] if target is not None else out.split(list(sizes.values()), dim=1)
        for own, values, *piece in zip(targets, local, *split, strict=True):
            formula(own, *piece, *values)
        return out


@dataclass(frozen=True)
class ShiftScale:
    """Shift and scale of normalised tokens: a branch reads x * scale + shift.

    ``layout`` says which token has which. ``scale`` is 1 plus the value that a network computes.
    """

    layout: Layout
    shift: Parameter
    scale: Parameter
    normed: ClassVar[bool] = True

    @property
    def uniform(self) -> bool:
        """Whether all tokens of a sample share one shift, scale and gate."""
        return len(self.layout.segments) == 1

    def modulate(self, x: Tensor, *, start: int = 0, in_place: bool = False) -> Tensor:
        """x (B, n, W) * scale + shift, for n tokens of which the first is number ``start`` of the stream.

        ``in_place`` writes into x, which must need no gradients.
        """
        return self.layout.apply(
            lambda out, x, scale, shift: torch.addcmul(shift, x, scale, out=out),
            (x,),
            (self.scale, self.shift),
            start=start,
            in_place=in_place,
        )


@dataclass(frozen=True)
class ShiftScaleGate(ShiftScale):
    """Shift and scale of what a branch reads, and the gate by which its update is multiplied."""

    gate: Parameter

    def add(self, x: Tensor, update: Tensor, *, start: int = 0, in_place: bool = False) -> Tensor:
        """x (B, n, W) + update * gate, for n tokens of which the first is number ``start`` of the stream.

        ``in_place`` writes into x, which must need no gradients.
        """
        return self.layout.apply(
            lambda out, x, update, gate: torch.addcmul(x, update, gate, out=out),
            (x, update),
            (self.gate,),
            start=start,
            in_place=in_place,
        )


@dataclass(frozen=True)
class Ungated:
    """A branch without modulation: x + branch(norm(x)), or x + branch(x) if it is not ``normed``.

    The first is the text attention of LTX-2.0, the second that of LTX-Video.
    """

    normed: bool = True
    uniform: bool = field(default=False, init=False)

    def modulate(self, x: Tensor, *, start: int = 0, in_place: bool = False) -> Tensor:
        return x

    def add(self, x: Tensor, update: Tensor, *, start: int = 0, in_place: bool = False) -> Tensor:
        # The gate of 1 is not multiplied, since the product would only be rounded again.
        return x.add_(update) if in_place else x + update


UNGATED = Ungated()
UNNORMED = Ungated(normed=False)


@dataclass(frozen=True)
class Modulation:
    """P modulation parameters computed from the timesteps, held once for each distinct timestep.

    ``values`` are (B, 1, P, W) where all tokens of a sample have the same, W being the width of the stream,
    (B, N, P, W) where every token has its own, (B, 1, S, P, W) for S segments of tokens, (G, P, W) for G
    groups of tokens that ``layout`` looks up. ``ones`` (P, 1) is 1 for scales, which networks compute as
    differences from 1, and 0 for the other parameters.
    """

    values: Tensor
    layout: Layout
    ones: Tensor

    @classmethod
    def of(cls, values: Tensor, groups: Groups, count: int, scales: slice) -> Modulation:
        """Modulation from ``values`` (P, G, W), the parameters of each of the G ``groups`` of tokens.

        ``count`` is the number of parameters that each block has learned; if P is 1, the one value is added
        to all of them. ``scales`` says which of the ``count`` parameters are scales.
        """
        ones, by_group = _ones(values, count, scales), values.transpose(0, 1)
        if groups.index is None:
            by_token = by_group.unflatten(0, (-1, groups.segments[0][1]))
            return cls(by_token, Layout(groups.segments), ones)
        if not groups.segments:
            return cls(by_group, Layout((), groups.index), ones)
        by_segment = by_group[groups.index.T].unsqueeze(1)
        # A single segment drops its axis, so that the usual text-to-video step broadcasts without slicing.
        several = len(groups.segments) > 1
        return cls(by_segment if several else by_segment[:, :, 0], Layout(groups.segments), ones)

    @classmethod
    def of_samples(cls, values: Tensor, count: int, scales: slice) -> Modulation:
        """Modulation from ``values`` (P, B, W): P parameters that are the same for all tokens of a sample.

        ``count`` is the number of parameters that each block has learned, ``scales`` says which of them are
        scales.
        """
        # The end of a single segment is never read, so that it serves texts of any length.
        return cls(values.transpose(0, 1).unsqueeze(1), Layout(((0, -1),)), _ones(values, count, scales))

    def and_samples(self, values: Tensor) -> Modulation:
        """A copy with more parameters at the end: ``values`` (P, B, W), P parameters of width W.

        They are the same for all tokens of a sample, and none of them is a scale.
        """
        more = values.transpose(0, 1)
        index, segments = self.layout.index, len(self.layout.segments)
        if index is None:
            more = more.unsqueeze(1).expand(-1, self.values.shape[1], -1, -1)
            # Repeated for each segment, since a stream's gates are stored next to its shifts and scales.
            if segments > 1:
                more = more.unsqueeze(2).expand(-1, -1, segments, -1, -1)
        else:
            more = more.repeat_interleave(len(self.values) // len(index), dim=0)
        ones = torch.cat((self.ones, self.ones.new_zeros(len(values), 1)))
        return replace(self, values=torch.cat((self.values, more), dim=-2), ones=ones)

    def plus(self, table: Tensor) -> Tensor:
        """The values of a block (..., P, W): these plus its learned ``table`` (P, W), plus 1 for scales."""
        # In place on the sum, which is a new tensor.
        return (self.values + table).add_(self.ones)

    def parameters(self, total: Tensor) -> list[Parameter]:
        """The P parameters of a block, of which ``total`` is the result of :meth:`plus`."""
        several = len(self.layout.segments) > 1
        parts = (total.flatten(-3, -2) if several else total).unbind(-2)
        count = total.shape[-2]
        return [parts[number::count] for number in range(count)]

    def branches(self, total: Tensor) -> list[ShiftScaleGate]:
        """Shift, scale and gate of each branch of a block, of which ``total`` is the result of :meth:`plus`.

        P is three times the number of branches.
        """
        values = self.parameters(total)
        return [ShiftScaleGate(self.layout, *values[i : i + 3]) for i in range(0, len(values), 3)]

    def shift_scale(self, total: Tensor) -> ShiftScale:
        """Shift and scale, of which ``total`` is the result of :meth:`plus`: the shift comes first."""
        return ShiftScale(self.layout, *self.parameters(total))


def plus_tables(terms: Sequence[tuple[Modulation, Tensor]]) -> list[Tensor]:
    """The result of :meth:`Modulation.plus` for each modulation and the learned table of a block."""
    return [modulation.plus(table) for modulation, table in terms]


def _ones(values: Tensor, count: int, scales: slice) -> Tensor:
    ones = values.new_zeros(count, 1)
    ones[scales].fill_(1)
    return ones
