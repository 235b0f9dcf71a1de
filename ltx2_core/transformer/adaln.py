"""Adaptive layer norm driven by the timestep.

Letters: B batch, N tokens, W stream width, R modulation rows, G groups: tokens that share one timestep.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

_SINUSOID_WIDTH = 256


@dataclass(frozen=True)
class Modulation:
    """Rows (R, G, W), evaluated once for each distinct timestep.

    ``index`` (B, N) names the group of every token; without it a group is a sample and its rows are broadcast
    over the tokens, so uniform timesteps cost no token-sized tensor.
    """

    rows: Tensor
    index: Tensor | None = None

    def plus(self, table: Tensor) -> Modulation:
        """Add a learned ``table`` (R, W)."""
        return Modulation(self.rows + table.unsqueeze(1), self.index)

    def row(self, number: int) -> Tensor:
        """(B, 1, W), or (B, N, W) where timesteps differ between tokens."""
        return self._spread(self.rows[number])

    def modulate(self, x: Tensor, *, scale: int, shift: int) -> Tensor:
        """x (B, N, W) * (1 + row ``scale``) + row ``shift``."""
        return torch.addcmul(self.row(shift), x, self._spread(self.rows[scale] + 1))

    def gate(self, x: Tensor, update: Tensor, *, row: int) -> Tensor:
        """x + update * row."""
        return torch.addcmul(x, update, self.row(row))

    def _spread(self, row: Tensor) -> Tensor:
        return row.unsqueeze(1) if self.index is None else F.embedding(self.index, row)


def group_timesteps(timesteps: Tensor) -> tuple[Tensor, Tensor | None]:
    """Timesteps (B, N) or (B, 1) -> distinct ones (G,) and the group of each token, None for (B, 1).

    A conditioned clip has thousands of tokens but few noise levels, so the modulation is evaluated per level.
    """
    if timesteps.shape[1] == 1:
        return timesteps[:, 0], None
    values, index = torch.unique(timesteps, return_inverse=True)
    return values, index


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
    angles = timesteps.float().unsqueeze(-1) * _frequencies().to(timesteps.device)
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


def _frequencies() -> Tensor:
    """10000^(-j/128) for j = 0 ... 127, the same on every machine.

    Timesteps reach 1000, so one ulp of frequency moves the output by 1e-5, and float32 exponentials differ by
    an ulp between maths libraries. The exponents are float32, as trained; their exponential is rounded once.
    """
    half = _SINUSOID_WIDTH // 2
    exponents = np.arange(half, dtype=np.float32) * np.float32(-log(10000.0)) / np.float32(half)
    frequencies = np.exp(exponents.astype(np.float64)).astype(np.float32)
    # Nearly half-way between two floats; the library behind the reference results rounds it up.
    frequencies[12] = np.nextafter(frequencies[12], np.float32(1))
    return torch.from_numpy(frequencies)
