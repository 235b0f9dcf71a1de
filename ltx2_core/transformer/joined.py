"""Attention to groups of keys, each by a call without a bias; results are joined by their softmax sums.

A weight of a query to all keys of a group is added to the logarithm of that group's sum, so that no mask is
needed.

Letters: B batch, H heads, T queries, S keys, N video tokens, G guide tokens behind them, D head width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

WithSums = Callable[..., tuple[Tensor, Tensor]]
"""As :func:`~ltx2_core.attention.attention_with_sums`."""

NEVER = -1e30
"""The logarithm of weight 0, finite so that the difference of two of them is no NaN."""


@dataclass(frozen=True, eq=False)
class KeyGroup:
    """Keys that follow each other, and the logarithm of the weight that each query gives them.

    ``start`` and ``stop`` count tokens from the first guide token; a ``start`` of None are the video's own.
    ``video`` is the logarithm for queries of the video: one for all keys, or a tensor (1, keys) with one for
    each key. ``guides`` (G,) float32 are those of the guides' queries; each is the same for all keys.
    """

    start: int | None
    stop: int
    video: float | Tensor
    guides: Tensor


def joined_attention(
    q: Tensor, k: Tensor, v: Tensor, groups: Sequence[KeyGroup], guides: int, *, by: WithSums
) -> Tensor:
    """Attention of q (B, H, S, D) to k, v (B, H, S, D) -> (B, H, S, D), with the weights of ``groups``.

    The last ``guides`` tokens are those of guides. ``by`` computes one group; its result is overwritten.
    """
    video = q.shape[2] - guides
    out = sums = None
    for group in groups:
        if group.start is None:
            keys = slice(0, video)
        else:
            keys = slice(video + group.start, video + group.stop)
        found, total = _group(q, k[:, :, keys], v[:, :, keys], group, video, by)
        if out is None or sums is None:
            out, sums = found, total
            continue
        share = torch.sigmoid(total - sums)[..., None].to(out.dtype)
        out = out.lerp_(found, share)
        sums = torch.logaddexp(sums, total)
    assert out is not None
    return out


def _group(
    q: Tensor, k: Tensor, v: Tensor, group: KeyGroup, video: int, by: WithSums
) -> tuple[Tensor, Tensor]:
    """Attention to one group of keys k, v (B, H, S, D), and the logarithms (B, H, T) of its weighted sums."""
    scale = q.shape[-1] ** -0.5
    if isinstance(group.video, Tensor):
        # Only queries of the video tell these keys apart.
        own = _by_key(q[:, :, :video], k, v, group.video, scale, by)
        others = _padded(q[:, :, video:], k, v, scale, by)
        sums = torch.cat((own[1], others[1] + group.guides), dim=2)
        return torch.cat((own[0], others[0]), dim=2), sums
    out, sums = _padded(q, k, v, scale, by)
    sums[:, :, :video] += group.video
    sums[:, :, video:] += group.guides
    return out, sums


def _by_key(
    q: Tensor, k: Tensor, v: Tensor, logs: Tensor, scale: float, by: WithSums
) -> tuple[Tensor, Tensor]:
    """Attention with a logarithm of a weight for each key, ``logs`` (1, S) float32, as more columns of k."""
    ones = q.new_full((*q.shape[:3], 2), 1 / scale)
    # In half precision one column rounds the logarithm by 0.4 %; the second one has what is lost.
    logs = logs.clamp(min=-1e4)
    high = logs.to(k.dtype)
    columns = torch.stack((high, (logs - high.float()).to(k.dtype)), dim=-1)
    k = torch.cat((k, columns[:, None].expand(*k.shape[:3], 2)), dim=-1)
    out, sums = _padded(torch.cat((q, ones), dim=-1), k, v, scale, by)
    return out, sums


def _padded(q: Tensor, k: Tensor, v: Tensor, scale: float, by: WithSums) -> tuple[Tensor, Tensor]:
    """``by`` with q, k and v widened by zeros to one width, a multiple of 8."""
    width = -(-q.shape[-1] // 8) * 8
    own = v.shape[-1]
    q, k, v = (
        torch.nn.functional.pad(t, (0, width - t.shape[-1])) if t.shape[-1] < width else t for t in (q, k, v)
    )
    out, sums = by(q, k, v, scale=scale)
    return out[..., :own], sums
