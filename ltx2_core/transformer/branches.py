"""The branches of a block: attention and feed-forward, whose results are added to a stream as updates.

A branch is called with normalised and modulated tokens, all of its stream; its method ``part`` returns a
branch to be called with some of the tokens.

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
from .perturbations import Samples, sample_mask
from .rope import Rope
from .texts import KeysValues
from .timed_texts import TimedTexts, attend_by_time

Attend = Callable[[Tensor, Tensor, Tensor, Bias], Tensor]
"""Queries (B, H, N, D), keys and values (B, H, S, D), and a bias or None -> (B, H, N, D)."""


@dataclass(frozen=True, eq=False)
class Target:
    """Where the update of a branch goes: to the tokens ``x`` (B, N, W), multiplied by ``gate`` (B, 1, W)."""

    x: Tensor
    gate: Tensor


class Branch(Protocol):
    def __call__(self, hidden: Tensor, into: Target | None = None) -> Tensor | None:
        """Normalised and modulated tokens (B, n, W) -> their update (B, n, W), without the gate.

        Where the last product of the branch can add the update to ``into``, the result is None. That comes
        last, so that the tokens are as they were if the branch fails.
        """

    def part(self, tokens: slice) -> Branch:
        """This branch for some tokens of the stream, a slice; it is then called with these alone."""


class Projections:
    """Computes queries, keys, values and updates by the linear layers of an :class:`Attention`."""

    def queries(self, attention: Attention, x: Tensor, rope: Rope | None) -> tuple[Tensor, Tensor | None]:
        """Queries (B, H, N, D) of x (B, N, W), RMS-normalised and, unless ``rope`` is None, rotated by it.

        The second are the logits (B, N, H) of the gates of heads, for :meth:`output`; None if they are still
        to be computed, or there are none.
        """
        return attention.queries(x, rope), None

    def keys_values(self, attention: Attention, source: Tensor, rope: Rope | None) -> KeysValues:
        """Keys and values, each (B, H, S, D), of source (B, S, W).

        Keys are RMS-normalised and, unless ``rope`` is None, rotated by it.
        """
        return attention.keys_values(source, rope)

    def queries_keys_values(
        self, attention: Attention, x: Tensor, rope: Rope | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Queries, keys and values, each (B, H, N, D), of the same x (B, N, W), for self-attention.

        Queries and keys are RMS-normalised and, unless ``rope`` is None, rotated by it. The last are logits
        as those of :meth:`queries`.
        """
        return *attention.queries_keys_values(x, rope), None

    def feed_forward(
        self,
        layer: nn.Module,
        hidden: Tensor,
        into: Target | None = None,
    ) -> Tensor | None:
        """The feed-forward network ``layer`` of ``hidden`` (B, N, W), (B, N, W); None if ``into`` has it."""
        update: Tensor = layer(hidden)
        return update

    def output(
        self,
        attention: Attention,
        attended: Tensor,
        hidden: Tensor,
        logits: Tensor | None = None,
        into: Target | None = None,
    ) -> Tensor | None:
        """Project ``attended`` values (B, H, N, D) of all heads to the update (B, N, W).

        Each head is multiplied by its gate if ``attention`` has gates. Their ``logits`` (B, N, H) are
        computed from ``hidden`` (B, N, W), what the queries are computed from, unless they are passed.
        ``attended`` may be overwritten. None if the update was added to ``into``.
        """
        return attention.output(attended, hidden, logits=logits)


@dataclass(frozen=True, kw_only=True, eq=False)
class SelfAttention:
    """Attention of a stream's tokens to each other.

    ``attend`` is the attention function, ``bias`` is added to its logits (None: nothing). ``samples`` says
    for each sample whether it attends, None being all. The other samples use the values of their own tokens
    in place of attended values (spatio-temporal guidance, Hyung et al. 2024, arXiv 2411.18664).
    """

    attention: Attention
    projections: Projections
    attend: Attend
    rope: Rope
    bias: Bias
    samples: Samples

    @property
    def divisible(self) -> bool:
        """Whether queries can be computed a part at a time.

        They cannot if ``bias`` is a :class:`GuideBias` (weighted attention to guides, tokens that condition
        the video), which is laid out for all queries.
        """
        return not isinstance(self.bias, GuideBias)

    def __call__(self, hidden: Tensor, into: Target | None = None) -> Tensor | None:
        if _nobody(self.samples):
            # Nothing is attended to, so that queries, keys and the product of both are not computed.
            return self._output(self.attention.values(hidden), hidden)
        queries, keys, values, logits = self.projections.queries_keys_values(
            self.attention, hidden, self.rope
        )
        out = self.attend(queries, keys, values, self.bias)
        # Freed before the output projection allocates its result.
        del queries, keys
        return self._output(_pass_through(out, values, self.samples), hidden, logits, into)

    def _output(
        self,
        attended: Tensor,
        hidden: Tensor,
        logits: Tensor | None = None,
        into: Target | None = None,
    ) -> Tensor | None:
        return self.projections.output(self.attention, attended, hidden, logits, into)

    def part(self, tokens: slice) -> Branch:
        raise NotImplementedError("keys and values are those of all tokens: use on() first")

    def on(self, keys: Tensor, values: Tensor) -> SelfQueries:
        """This attention with ``keys`` and ``values`` (B, H, N, D) that are already computed for all tokens.

        The result, unlike this object, can be cut by ``part`` into branches for some of the queries.
        """
        return SelfQueries(self, keys, values, values, self.rope, self.bias)


@dataclass(frozen=True, eq=False)
class SelfQueries:
    """Self-attention of some tokens to ``keys`` and ``values`` (B, H, N, D) that are computed for all tokens.

    ``whole`` is the attention of all tokens. ``own`` (B, H, n, D) are the values of the n tokens alone, which
    samples use that skip attention; ``rope`` and ``bias`` are those of the n tokens.
    """

    whole: SelfAttention
    keys: Tensor
    values: Tensor
    own: Tensor
    rope: Rope
    bias: Bias

    def __call__(self, hidden: Tensor, into: Target | None = None) -> Tensor | None:
        attention, projections, samples = self.whole.attention, self.whole.projections, self.whole.samples
        if _nobody(samples):
            # A copy, as gates are multiplied in place and the branch may have to be computed again.
            return projections.output(attention, self.own.clone(), hidden)
        queries, logits = projections.queries(attention, hidden, self.rope)
        out = self.whole.attend(queries, self.keys, self.values, self.bias)
        del queries
        attended = _pass_through(out, self.own, samples)
        return projections.output(attention, attended, hidden, logits, into)

    def part(self, tokens: slice) -> SelfQueries:
        bias = self.bias
        # A bias of one row is the same for every query and needs no cut.
        if isinstance(bias, Tensor) and bias.shape[2] > 1:
            bias = bias[:, :, tokens]
        return replace(self, own=self.values[:, :, tokens], rope=self.rope.part(tokens), bias=bias)


@dataclass(frozen=True, kw_only=True, eq=False)
class CrossAttention:
    """Attention to ``keys`` and ``values`` of the other stream, which are already computed.

    ``attend`` is the attention function, ``rope`` rotates the queries. ``samples`` says for each sample
    whether it attends, None being all; the update of the others is 0.
    """

    attention: Attention
    projections: Projections
    attend: Attend
    keys: Tensor
    values: Tensor
    rope: Rope
    samples: Samples

    def __call__(self, hidden: Tensor, into: Target | None = None) -> Tensor | None:
        queries, logits = self.projections.queries(self.attention, hidden, self.rope)
        attended = self.attend(queries, self.keys, self.values, None)
        own = into if self.samples is None else None
        update = self.projections.output(self.attention, attended, hidden, logits, own)
        if self.samples is None or update is None:
            return update
        return update * sample_mask(self.samples, update.dtype, update.device)

    def part(self, tokens: slice) -> CrossAttention:
        return replace(self, rope=self.rope.part(tokens))


@dataclass(frozen=True, kw_only=True, eq=False)
class TextAttention:
    """Attention to the keys and values of a text, which are already computed; ``bias`` hides its padding.

    ``texts`` holds that one text, or several with ``times``, which says to which of them each token attends,
    or to which part of one; ``bias`` is None then.

    With ``guidance`` (normalized attention guidance) tokens also attend to the keys and values of a
    ``negative`` text, and both results are combined into one update. Both are None without it.
    """

    attention: Attention
    projections: Projections
    attend: Attend
    texts: tuple[KeysValues, ...]
    bias: Tensor | None
    times: TimedTexts | None = None
    guidance: NegativeText | None = None
    negative: KeysValues | None = None

    def __call__(self, hidden: Tensor, into: Target | None = None) -> Tensor | None:
        if self.guidance is None or self.negative is None:
            return self._own(hidden, into)
        # Without a mask: connectors replace the padding of a prompt by registers, which are attended to.
        update, other = self._own(hidden), self._attend(hidden, self.negative, None)
        assert update is not None
        assert other is not None
        return self.guidance.guide(update, other)

    def part(self, tokens: slice) -> TextAttention:
        # Keys and values are those of the text, so that a part of the tokens attends to all of them.
        return self if self.times is None else replace(self, times=self.times.of(tokens))

    def _own(self, hidden: Tensor, into: Target | None = None) -> Tensor | None:
        if self.times is None:
            return self._attend(hidden, self.texts[0], self.bias, into)
        queries, logits = self.projections.queries(self.attention, hidden, None)
        attended = attend_by_time(self.attend, queries, self.texts, self.times.runs(hidden))
        return self.projections.output(self.attention, attended, hidden, logits, into)

    def _attend(
        self, hidden: Tensor, text: KeysValues, bias: Tensor | None, into: Target | None = None
    ) -> Tensor | None:
        queries, logits = self.projections.queries(self.attention, hidden, None)
        attended = self.attend(queries, *text, bias)
        return self.projections.output(self.attention, attended, hidden, logits, into)


@dataclass(frozen=True, eq=False)
class TokenWise:
    """A branch whose layer computes every token independently: the feed-forward network."""

    layer: nn.Module
    projections: Projections

    def __call__(self, hidden: Tensor, into: Target | None = None) -> Tensor | None:
        return self.projections.feed_forward(self.layer, hidden, into)

    def part(self, tokens: slice) -> TokenWise:
        return self


def _nobody(samples: Samples) -> bool:
    return samples is not None and not any(samples)


def _pass_through(attended: Tensor, values: Tensor, samples: Samples) -> Tensor:
    """``attended`` (B, H, N, D) for the samples that attend, ``values`` of the same shape for the others.

    ``samples`` says which attend; None is all.
    """
    if samples is None or all(samples):
        return attended
    mask = sample_mask(samples, torch.bool, attended.device)[..., None]
    return torch.where(mask, attended, values)
