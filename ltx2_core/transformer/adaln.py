"""Timesteps to modulation parameters, by a small network that all blocks share (PixArt-alpha's adaLN-single).

Letters: W stream width, P modulation parameters, G groups of tokens that share one timestep.
"""

from __future__ import annotations

from functools import lru_cache
from math import log
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

_SINUSOID_WIDTH = 256


class AdaLNSingle(nn.Module):
    """Network from timesteps to modulation parameters (shift, scale, gate), which all blocks share.

    ``count`` is the number of parameters, each a vector of ``width``, the width of the stream. The network
    also returns the timestep embedding from which the parameters are computed.
    """

    def __init__(
        self,
        width: int,
        count: int,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ) -> None:
        super().__init__()
        self.count = count
        self.emb = _Embedding(width, dtype=dtype, device=device, operations=operations)
        self.linear = operations.Linear(width, count * width, dtype=dtype, device=device)

    def forward(self, timesteps: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Timesteps (G,) -> parameters (P, G, W) and timestep embedding (G, W), both in ``dtype``.

        G is the number of timesteps, P that of parameters, W the width of the stream. Timesteps are sigmas
        times the configured scale, mostly 0 to 1000.
        """
        # Cast only after the sinusoid, as in the official code: a timestep in bfloat16 would move all later
        # layers.
        embedding = self.emb.timestep_embedder(sinusoid(timesteps).to(dtype))
        # The SiLU is not part of the returned embedding, to which the head adds its own table.
        # Parameters vary slowest in the rows of the weight, as in released checkpoints.
        parameters = self.linear(F.silu(embedding)).unflatten(-1, (self.count, -1))
        return parameters.transpose(0, 1), embedding


class _Embedding(nn.Module):
    """Wraps a :class:`TimestepEmbedder`, only because the parameter names of checkpoints have this level."""

    def __init__(self, width: int, **layer: Any) -> None:
        super().__init__()
        self.timestep_embedder = TimestepEmbedder(width, **layer)


class TimestepEmbedder(nn.Module):
    """From the :func:`sinusoid` of a timestep to its embedding: two linear layers with a SiLU between."""

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
        """Sinusoids (G, 256) of G timesteps -> embeddings (G, W), W being the width of the stream."""
        embedding: Tensor = self.linear_2(F.silu(self.linear_1(x)))
        return embedding


def sinusoid(timesteps: Tensor) -> Tensor:
    """Sinusoidal embedding of timesteps, (G,) -> (G, 256) float32.

    The angles are the timestep times 128 frequencies, which fall from 1 to about 1/10000. All cosines come
    first, then all sines. Equals ``Timesteps`` of diffusers with ``flip_sin_to_cos`` and no
    ``downscale_freq_shift``.
    """
    # Always float32: scaled timesteps reach 1000, where neighbours in bfloat16 are 4 apart.
    angles = timesteps.float().unsqueeze(-1) * _frequencies(timesteps.device)
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _frequencies(device: torch.device) -> Tensor:
    """Frequencies of :func:`sinusoid`, (128,) float32: 10000^(-j/128), with the same bits on every machine.

    Timesteps reach 1000, so one ulp of frequency moves the output by 1e-5, and float32 exponentials differ by
    an ulp between maths libraries. The exponents are float32, as trained; their exponential is rounded once.
    """
    half = _SINUSOID_WIDTH // 2
    exponents = np.arange(half, dtype=np.float32) * np.float32(-log(10000.0)) / np.float32(half)
    frequencies = np.exp(exponents.astype(np.float64)).astype(np.float32)
    # Nearly half-way between two floats; the library behind the reference results rounds it up.
    frequencies[12] = np.nextafter(frequencies[12], np.float32(1))
    return torch.from_numpy(frequencies).to(device)
