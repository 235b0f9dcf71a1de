"""Attention between a video and its weighted guides, without a mask of all tokens by all tokens.

Letters: B batch, H heads, N video tokens, G guide tokens behind them, S = N + G, D head width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from ..attention import attention, attention_with_sums, gives_sums
from .joined import NEVER, KeyGroup, joined_attention

PlainAttention = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""Queries (B, H, T, D), keys and values (B, H, S, D), an additive bias or None -> (B, H, T, D)."""

QUERIES = 256
"""Guide queries of unequal weight that are computed at a time: their bias is (QUERIES, S)."""


@dataclass(frozen=True, eq=False)
class GuideWeights:
    """Weights of attention between video and guide tokens: 1 is plain attention, 0 none, above 1 more.

    Guides are tokens of images or clips that condition the video; they follow its own tokens. ``guides`` has
    a tensor (g,) for each guide of g tokens, in the order of the tokens, on any device: the weight of
    attention between each guide token and the video, in both directions. Attention within the video and
    within one guide is plain; between two guides it has the weight ``between``. ``free`` has a flag for each
    guide: one that is free attends plainly to the guides before it, and they to it.
    """

    guides: tuple[Tensor, ...]
    between: float = 1.0
    free: tuple[bool, ...] = ()
    _biases: dict[tuple[torch.dtype, torch.device | None], GuideBias] = field(
        default_factory=dict, init=False, repr=False
    )

    def bias(self, dtype: torch.dtype, device: torch.device | None) -> GuideBias:
        """These weights as biases of logits in ``dtype`` on ``device``, the same object at every call."""
        # Copying the weights to a GPU makes the CPU wait, which would happen at every step.
        if (dtype, device) not in self._biases:
            self._biases[dtype, device] = GuideBias.of(self, dtype, device)
        return self._biases[dtype, device]

    @cached_property
    def count(self) -> int:
        return sum(len(guide) for guide in self.guides)

    @cached_property
    def uniform(self) -> tuple[float | None, ...]:
        """For each guide the weight that all of its tokens have, or None where its tokens differ."""
        return tuple(float(g[0]) if bool((g == g[0]).all()) else None for g in self.guides)

    @property
    def plain(self) -> bool:
        """Whether the weight between every guide and the video is 1; attention then needs no mask.

        The weight of attention between two guides (``between``) is not looked at, and is then ignored, as in
        the reference code.
        """
        return all(weight == 1 for weight in self.uniform)

    def weight_between(self, one: int, other: int) -> float:
        """The weight of attention between the guides number ``one`` and ``other``, counted from 0."""
        # Within its own guide attention is plain, whatever the weight between two guides.
        if one == other or any(self.free[max(one, other) : max(one, other) + 1]):
            return 1.0
        return self.between

    def dense(self, tokens: int) -> Tensor:
        """The same weights as one mask (1, S, S), float32, queries by keys.

        S is ``tokens``, the number of video and guide tokens together, guides last.
        """
        mask = torch.ones(1, tokens, tokens)
        video = tokens - self.count
        start, groups = video, list[slice]()
        for guide in self.guides:
            group = slice(start, start + len(guide))
            groups.append(group)
            for number, earlier in enumerate(groups):
                weight = self.weight_between(number, len(groups) - 1)
                mask[:, group, earlier] = mask[:, earlier, group] = weight
            mask[:, :video, group] = guide.float().cpu()
            mask[:, group, :video] = guide.float().cpu()[:, None]
            start = group.stop
        return mask


@dataclass(frozen=True, eq=False)
class GuideBias:
    """The logarithms of :class:`GuideWeights`, which are added to attention logits, on the tokens' device.

    ``logs`` has a tensor (g,) for each guide, ``between`` is the logarithm of the weight between two guides.
    """

    weights: GuideWeights
    logs: tuple[Tensor, ...]
    between: tuple[Tensor, ...]
    """For each guide the biases (1, G) of its attention to all guide tokens."""
    groups: tuple[KeyGroup, ...] = ()
    """The same weights by groups of keys, for attention without a bias."""

    @classmethod
    def of(cls, weights: GuideWeights, dtype: torch.dtype, device: torch.device | None) -> GuideBias:
        logs = tuple(log_weights(g.to(device), dtype) for g in weights.guides)
        sizes = torch.tensor([len(guide) for guide in weights.guides])
        numbers = range(len(weights.guides))
        each = [torch.tensor([weights.weight_between(one, two) for two in numbers]) for one in numbers]
        between = tuple(log_weights(one.repeat_interleave(sizes), dtype).to(device)[None] for one in each)
        return cls(weights, logs, between, tuple(_key_groups(weights, device)))


def _key_groups(weights: GuideWeights, device: torch.device | None) -> Iterator[KeyGroup]:
    """The video's own keys, then those of the guides; guides of the same weights share a group."""
    guides = [_float_logs(guide) for guide in weights.guides]
    # A tile of the frame may hold no token of any guide.
    yield KeyGroup(None, 0, 0.0, torch.cat([torch.zeros(0), *guides]).to(device))
    numbers = range(len(guides))
    start, number = 0, 0
    while number < len(guides):
        last = number
        rows = [[weights.weight_between(one, other) for one in numbers] for other in numbers]
        # One call for neighbours that every query gives the same weight.
        while (
            last + 1 < len(guides)
            and weights.uniform[number] is not None
            and weights.uniform[last + 1] == weights.uniform[number]
            and rows[last + 1] == rows[number]
        ):
            last += 1
        stop = start + sum(len(guides[n]) for n in range(number, last + 1))
        weight = weights.uniform[number]
        video = guides[number].to(device)[None] if weight is None else _log(weight)
        each = [torch.full((len(guides[n]),), _log(rows[number][n])) for n in numbers]
        yield KeyGroup(start, stop, video, torch.cat(each).to(device))
        start, number = stop, last + 1


def _float_logs(weights: Tensor) -> Tensor:
    return weights.float().cpu().log().clamp(min=NEVER)


def _log(weight: float) -> float:
    return float(_float_logs(torch.tensor(weight)))


Bias = Tensor | GuideBias | None
"""Additive to the logits and broadcast to (B, H, N, S), or between a video and its guides, or none."""


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Bias, *, by: PlainAttention | None = None) -> Tensor:
    """Attention with any bias: None, a tensor that is added to the logits, or a :class:`GuideBias`.

    q (B, H, N, D), k and v (B, H, S, D) -> (B, H, N, D): N queries, S keys, H heads of width D. ``by``
    computes it where the bias is no :class:`GuideBias`; None is ``attention``.
    """
    if isinstance(bias, GuideBias):
        return guided_attention(q, k, v, bias)
    return (attention if by is None else by)(q, k, v, bias)


def guided_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: GuideBias, *, by: PlainAttention | None = None
) -> Tensor:
    """Self-attention with weights between a video and its guides; q, k, v (B, H, S, D) -> (B, H, S, D).

    S is the number of tokens: those of the video, then those of its guides, which condition it. ``bias`` has
    the logarithms of the weights. ``by`` is an attention function that is called for some of the queries at a
    time, with their bias; None is ``attention``. All queries of the video have the same bias, one row (1, S).
    So have those of a guide whose tokens have one weight. Queries of other guides are computed 256
    (``QUERIES``) at a time, so that no bias is larger than (256, S).

    With ``by`` None, on a GPU in half precision, there is no bias at all: each group of keys is a call of its
    own, joined by the logarithms of their softmax sums, which differs by rounding alone.
    """
    if by is None and gives_sums(q):
        return joined_attention(q, k, v, bias.groups, bias.weights.count, by=attention_with_sums)
    by = attention if by is None else by
    tokens = q.shape[2]
    video = tokens - bias.weights.count
    # Video tokens attend to each other plainly, which is a bias of 0.
    row = torch.cat((q.new_zeros(video), *bias.logs))[None, None, None]
    # A bias of one row broadcasts over the queries, where a mask would take N x S values.
    parts = [by(q[:, :, :video], k, v, row)]
    start = video
    for log, others, weight in zip(bias.logs, bias.between, bias.weights.uniform, strict=True):
        stop = start + len(log)
        # Guide tokens of one weight share a row of biases, so that they need no steps.
        step = len(log) if weight is not None else QUERIES
        for first in range(0, len(log), step):
            own = log[:1] if weight is not None else log[first : first + step]
            rows = torch.cat((own[:, None].expand(-1, video), others.expand(len(own), -1)), dim=1)
            queries = q[:, :, start + first : min(start + first + step, stop)]
            parts.append(by(queries, k, v, rows[None, None]))
        start = stop
    return torch.cat(parts, dim=2)


def log_weights(weights: Tensor, dtype: torch.dtype) -> Tensor:
    """Attention weights, at least 0 -> biases of logits in ``dtype``: their logarithms.

    The bias of weight 0 is the lowest finite number of ``dtype``.
    """
    weights = weights.float()
    # The smallest normal float bounds the logarithm, as in the official code.
    log = weights.clamp(min=torch.finfo(torch.float32).tiny).log().to(dtype)
    # Not -inf: a query whose keys all have it would become NaN in the softmax.
    return log.masked_fill(weights <= 0, torch.finfo(dtype).min)
