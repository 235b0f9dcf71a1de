"""Adaptive layer norm driven by the timestep.

Letters: B batch, N tokens, W stream width, R modulation rows, S segments of the tokens, G groups: tokens that
share one timestep.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import log
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

_SINUSOID_WIDTH = 256


_MAX_SEGMENTS = 16
"""Tokens whose timesteps change more often than this along the sequence are looked up one by one."""

Bounds = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Groups:
    """Distinct ``timesteps`` (G,), those of each sample by themselves, and which token has which.

    Along the tokens a timestep mostly changes a few times. ``segments`` (S of them) are the runs [start,
    stop) in which none does, and ``index`` (S, B) names the group of each; where they change often there are
    no segments and ``index`` (B, N) names the group of every token. Without ``index`` every token is a group
    of its own, in order.
    """

    timesteps: Tensor
    index: Tensor | None
    segments: Bounds

    @classmethod
    def apart(cls, timesteps: Tensor) -> Groups:
        """Every token of (B, N) by itself: more to compute, but nothing to look for."""
        return cls(timesteps.flatten(), None, ((0, timesteps.shape[1]),))


def group_timesteps(timesteps: Tensor, tokens: int, device: torch.device) -> Groups:
    """Timesteps (B, N), or (B, 1) where all tokens of a sample agree, -> their groups on ``device``.

    A conditioned clip has thousands of tokens but few noise levels, so the modulation is evaluated per level.
    In training on a GPU it is not: finding the levels would make it wait in every step.
    """
    batch = len(timesteps)
    samples = torch.arange(batch, device=timesteps.device)
    if timesteps.shape[1] == 1:
        return Groups(timesteps[:, 0].to(device), samples[None].to(device), ((0, tokens),))
    if timesteps.is_cuda and torch.is_grad_enabled():
        return Groups.apart(timesteps)
    values, index = torch.unique(timesteps, return_inverse=True)
    index = index + samples[:, None] * len(values)
    changes = (index[:, 1:] != index[:, :-1]).any(dim=0).nonzero().flatten().tolist()
    starts = [0, *(change + 1 for change in changes)]
    segments: Bounds = ()
    if len(starts) <= _MAX_SEGMENTS:
        segments = tuple(zip(starts, (*starts[1:], tokens), strict=True))
        index = index[:, starts].T
    return Groups(values.repeat(batch).to(device), index.to(device), segments)


@dataclass(frozen=True)
class Modulation:
    """Rows of modulation, held once for each distinct timestep and never spread over the tokens.

    ``rows`` (B, 1, S, R, W) are those of the ``segments`` of the tokens, (B, 1, R, W) where there is but one
    and (B, N, R, W) where every token has its own.
    Without segments they are (G, R, W), and ``index`` (B, N) names the group of every token. ``ones`` (R, 1)
    are 1 for the rows that scale.
    """

    rows: Tensor
    segments: Bounds
    index: Tensor | None = None
    ones: Tensor | None = None

    @classmethod
    def of(cls, rows: Tensor, groups: Groups) -> Modulation:
        """rows (R, G, W), one for each group."""
        by_group = rows.transpose(0, 1)
        if groups.index is None:
            return cls(by_group.unflatten(0, (-1, groups.segments[0][1])), groups.segments)
        if not groups.segments:
            return cls(by_group, (), groups.index)
        by_segment = by_group[groups.index.T].unsqueeze(1)
        return cls(by_segment if len(groups.segments) > 1 else by_segment[:, :, 0], groups.segments)

    @classmethod
    def of_samples(cls, rows: Tensor) -> Modulation:
        """rows (R, B, W), the same for all tokens of a sample."""
        return cls(rows.transpose(0, 1).unsqueeze(1), ((0, -1),))

    def and_samples(self, rows: Tensor) -> Modulation:
        """These rows and then ``rows`` (R, B, W), the same for all tokens of a sample."""
        rows = rows.transpose(0, 1)
        if self.index is None:
            rows = rows.unsqueeze(1).expand(-1, self.rows.shape[1], -1, -1)
            if len(self.segments) > 1:
                rows = rows.unsqueeze(2).expand(-1, -1, len(self.segments), -1, -1)
        else:
            rows = rows.repeat_interleave(len(self.rows) // len(self.index), dim=0)
        return replace(self, rows=torch.cat((self.rows, rows), dim=-2))

    def scaling(self, count: int, scales: slice) -> Modulation:
        """These rows for tables of ``count`` rows, to ``scales`` of which 1 is added: laid out once."""
        ones = self.rows.new_zeros(count, 1)
        ones[scales].fill_(1)
        return replace(self, ones=ones)

    def plus(self, table: Tensor, *, scales: slice | None = None) -> Rows:
        """Add a learned ``table`` (R, W), and 1 to its rows ``scales``, by default those laid out."""
        rows = self.rows + table
        if scales is not None:
            rows[..., scales, :].add_(1)
        elif self.ones is not None:
            rows.add_(self.ones)
        return Rows((rows.flatten(-3, -2) if len(self.segments) > 1 else rows).unbind(-2), self)


@dataclass(frozen=True)
class Rows:
    """The rows that one layer uses: S x R ``parts`` (B, 1, W), or R parts (G, W), laid out as ``by`` says.

    ``start`` is the place of the first of the given tokens. ``in_place`` writes into ``x``; it is for callers
    that own ``x`` and need no gradients.
    """

    parts: tuple[Tensor, ...]
    by: Modulation

    def modulate(
        self, x: Tensor, *, scale: int, shift: int, start: int = 0, in_place: bool = False
    ) -> Tensor:
        """x (B, N, W) * row ``scale`` + row ``shift``."""
        return self._run(
            lambda out, a, scale, shift: torch.addcmul(shift, a, scale, out=out),
            (x,),
            (scale, shift),
            start,
            in_place,
        )

    def gate(self, x: Tensor, update: Tensor, *, row: int, start: int = 0, in_place: bool = False) -> Tensor:
        """x (B, N, W) + update * row ``row``."""
        return self._run(
            lambda out, a, b, gate: torch.addcmul(a, b, gate, out=out), (x, update), (row,), start, in_place
        )

    def _run(
        self,
        formula: Callable[..., Tensor],
        tensors: tuple[Tensor, ...],
        rows: tuple[int, ...],
        start: int,
        in_place: bool,
    ) -> Tensor:
        """``formula(out, *tensors, *rows)``, segment by segment where there are several."""
        x, length = tensors[0], tensors[0].shape[1]
        index = self.by.index
        if index is not None:
            spread = [F.embedding(index[:, start : start + length], self.parts[row]) for row in rows]
            return formula(x if in_place else None, *tensors, *spread)
        segments = self.by.segments
        count = len(segments)
        if count == 1:
            return formula(x if in_place else None, *tensors, *(self.parts[row] for row in rows))
        each = len(self.parts) // count
        # One entry a segment that the given tokens touch: its number, and how many of them are in it.
        sizes = {
            number: min(last, start + length) - max(first, start)
            for number, (first, last) in enumerate(segments)
            if first < start + length and last > start
        }
        given = [t.split(list(sizes.values()), dim=1) for t in tensors]
        if torch.is_grad_enabled():
            targets: Sequence[Tensor | None] = [None] * len(sizes)
        else:
            out = x if in_place else torch.empty_like(x)
            targets = given[0] if in_place else out.split(list(sizes.values()), dim=1)
        made = [
            formula(target, *pieces, *(self.parts[number * each + row] for row in rows))
            for number, target, *pieces in zip(sizes, targets, *given, strict=True)
        ]
        return torch.cat(made, dim=1) if torch.is_grad_enabled() else out


class AdaLNSingle(nn.Module):
    """Timesteps to ``rows`` modulation rows, and the embedding that they come from."""

    def __init__(
        self,
        width: int,
        rows: int,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ) -> None:
        super().__init__()
        self.rows = rows
        self.emb = _Embedding(width, dtype=dtype, device=device, operations=operations)
        self.linear = operations.Linear(width, rows * width, dtype=dtype, device=device)

    def forward(self, timesteps: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Scaled timesteps (G,) -> rows (R, G, W) and embedding (G, W), both in ``dtype``."""
        embedding = self.emb.timestep_embedder(sinusoid(timesteps).to(dtype))
        rows = self.linear(F.silu(embedding)).unflatten(-1, (self.rows, -1))
        return rows.transpose(0, 1), embedding


class _Embedding(nn.Module):
    """A level of the checkpoint's names."""

    def __init__(self, width: int, **layer: Any) -> None:
        super().__init__()
        self.timestep_embedder = TimestepEmbedder(width, **layer)


class TimestepEmbedder(nn.Module):
    """Two-layer MLP over the sinusoid."""

    def __init__(
        self,
        width: int,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ) -> None:
        super().__init__()
        self.linear_1 = operations.Linear(_SINUSOID_WIDTH, width, dtype=dtype, device=device)
        self.linear_2 = operations.Linear(width, width, dtype=dtype, device=device)

    def forward(self, x: Tensor) -> Tensor:
        """(G, 256) -> (G, W)."""
        embedding: Tensor = self.linear_2(F.silu(self.linear_1(x)))
        return embedding


def sinusoid(timesteps: Tensor) -> Tensor:
    """(G,) -> (G, 256) float32: the cosines of 128 frequencies from 1 down to 1/10000, then the sines."""
    angles = timesteps.float().unsqueeze(-1) * _frequencies(timesteps.device)
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _frequencies(device: torch.device) -> Tensor:
    """10000^(-j/128) for j = 0 ... 127, the same on every machine.

    Timesteps reach 1000, so one ulp of frequency moves the output by 1e-5, and float32 exponentials differ by
    an ulp between maths libraries. The exponents are float32, as trained; their exponential is rounded once.
    """
    half = _SINUSOID_WIDTH // 2
    exponents = np.arange(half, dtype=np.float32) * np.float32(-log(10000.0)) / np.float32(half)
    frequencies = np.exp(exponents.astype(np.float64)).astype(np.float32)
    # Nearly half-way between two floats; the library behind the reference results rounds it up.
    frequencies[12] = np.nextafter(frequencies[12], np.float32(1))
    return torch.from_numpy(frequencies).to(device)
