"""The branches of a block: from modulated tokens of a stream to what is added to them.

A branch can be called for all tokens of its stream, or be cut to some of them by ``part`` and called for
those.

Letters: B batch, N tokens, S tokens or text tokens that are attended to, W stream width, H heads, D head
width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from .guided import Bias, GuideBias
from .layers import Attention
from .nag import NegativeText
from .perturbations import Samples
from .rope import Rope
from .texts import KeysValues

Attend = Callable[[Tensor, Tensor, Tensor, Bias], Tensor]
"""Queries (B, H, N, D), keys and values (B, H, S, D), and a bias or None -> (B, H, N, D)."""


class Branch(Protocol):
    def __call__(self, hidden: Tensor) -> Tensor:
        """Modulated tokens (B, n, W) -> the update of these tokens (B, n, W)."""

    def part(self, tokens: slice) -> Branch:
        """The same branch for some tokens of the stream."""


class Projections:
    """Queries, keys and values by the attention's own layers, one operation at a time."""

    def queries(self, attention: Attention, x: Tensor, rope: Rope | None) -> Tensor:
        """x (B, N, W) -> (B, H, N, D), normalised and rotated."""
        return attention.queries(x, rope)

    def keys_values(self, attention: Attention, source: Tensor, rope: Rope | None) -> KeysValues:
        """source (B, S, W) -> (B, H, S, D) twice; the keys are normalised and rotated."""
        return attention.keys_values(source, rope)

    def queries_keys_values(
        self, attention: Attention, x: Tensor, rope: Rope | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """All three of x (B, N, W), for self-attention."""
        return (attention.queries(x, rope), *attention.keys_values(x, rope))


@dataclass(frozen=True, kw_only=True)
class SelfAttention:
    """Attention of a stream's tokens to each other.

    Samples that are not among ``samples`` pass their values through (spatio-temporal guidance, Hyung et al.
    2024, arXiv 2411.18664).
    """

    attention: Attention
    projections: Projections
    attend: Attend
    rope: Rope
    bias: Bias
    samples: Samples

    @property
    def divisible(self) -> bool:
        """Whether ``part`` can cut it: the bias of weighed guides is laid out for all queries at once."""
        return not isinstance(self.bias, GuideBias)

    def __call__(self, hidden: Tensor) -> Tensor:
        if _nobody(self.samples):
            # Nothing is attended to, so that queries, keys and the product of both are not computed.
            return self.attention.output(self.attention.values(hidden), hidden)
        queries, keys, values = self.projections.queries_keys_values(self.attention, hidden, self.rope)
        out = self.attend(queries, keys, values, self.bias)
        # Freed before the output projection allocates its result.
        del queries, keys
        return self.attention.output(_pass_through(out, values, self.samples), hidden)

    def part(self, tokens: slice) -> Branch:
        raise NotImplementedError("keys and values are those of all tokens: use on() first")

    def on(self, keys: Tensor, values: Tensor) -> SelfQueries:
        """This attention with ``keys`` and ``values`` (B, H, N, D) of all tokens, which ``part`` can cut."""
        return SelfQueries(self, keys, values, values, self.rope, self.bias)


@dataclass(frozen=True)
class SelfQueries:
    """Self-attention of some tokens, whose values are ``own``, to ``keys`` and ``values`` of all tokens."""

    whole: SelfAttention
    keys: Tensor
    values: Tensor
    own: Tensor
    rope: Rope
    bias: Bias

    def __call__(self, hidden: Tensor) -> Tensor:
        attention, samples = self.whole.attention, self.whole.samples
        if _nobody(samples):
            return attention.output(self.own, hidden)
        queries = self.whole.projections.queries(attention, hidden, self.rope)
        out = self.whole.attend(queries, self.keys, self.values, self.bias)
        del queries
        return attention.output(_pass_through(out, self.own, samples), hidden)

    def part(self, tokens: slice) -> SelfQueries:
        bias = self.bias
        # A bias of one row is the same for every query and needs no cut.
        if isinstance(bias, Tensor) and bias.shape[2] > 1:
            bias = bias[:, :, tokens]
        return replace(self, own=self.values[:, :, tokens], rope=self.rope.part(tokens), bias=bias)


@dataclass(frozen=True, kw_only=True)
class CrossAttention:
    """Attention to ``keys`` and ``values`` of the other stream; nothing for samples not among ``samples``."""

    attention: Attention
    projections: Projections
    attend: Attend
    keys: Tensor
    values: Tensor
    rope: Rope
    samples: Samples

    def __call__(self, hidden: Tensor) -> Tensor:
        queries = self.projections.queries(self.attention, hidden, self.rope)
        update = self.attention.output(self.attend(queries, self.keys, self.values, None), hidden)
        if self.samples is None:
            return update
        return update * torch.tensor(self.samples, dtype=update.dtype, device=update.device)[:, None, None]

    def part(self, tokens: slice) -> CrossAttention:
        return replace(self, rope=self.rope.part(tokens))


@dataclass(frozen=True, kw_only=True)
class TextAttention:
    """Attention to the keys and values of a text, which ``guidance`` leads away from a ``negative`` text."""

    attention: Attention
    projections: Projections
    attend: Attend
    text: KeysValues
    bias: Tensor | None
    guidance: NegativeText | None = None
    negative: KeysValues | None = None

    def __call__(self, hidden: Tensor) -> Tensor:
        update = self._attend(hidden, self.text, self.bias)
        if self.guidance is None or self.negative is None:
            return update
        # Without a mask: connectors replace the padding of a prompt by registers, which are attended to.
        return self.guidance.guide(update, self._attend(hidden, self.negative, None))

    def part(self, tokens: slice) -> TextAttention:
        # Keys and values are those of the text, so that a part of the tokens attends to all of them.
        return self

    def _attend(self, hidden: Tensor, text: KeysValues, bias: Tensor | None) -> Tensor:
        queries = self.projections.queries(self.attention, hidden, None)
        return self.attention.output(self.attend(queries, *text, bias), hidden)


@dataclass(frozen=True)
class TokenWise:
    """A layer that computes every token by itself, such as the feed-forward network."""

    layer: nn.Module

    def __call__(self, hidden: Tensor) -> Tensor:
        update: Tensor = self.layer(hidden)
        return update

    def part(self, tokens: slice) -> TokenWise:
        return self


def _nobody(samples: Samples) -> bool:
    return samples is not None and not any(samples)


def _pass_through(attended: Tensor, values: Tensor, samples: Samples) -> Tensor:
    """``attended`` (B, H, N, D) of the samples that attend, ``values`` of the others."""
    if samples is None or all(samples):
        return attended
    return torch.where(torch.tensor(samples, device=attended.device)[:, None, None, None], attended, values)
