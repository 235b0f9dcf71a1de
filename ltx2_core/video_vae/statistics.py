"""Per-channel statistics that normalise the autoencoder's latents for the transformer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

OPTIONAL_KEYS = (
    "per_channel_statistics.channel",
    "per_channel_statistics.mean-of-stds",
    "per_channel_statistics.mean-of-stds_over_std-of-means",
)
"""Keys of 2.0 files that are not used; strict loading accepts a state dict with or without them."""


class PerChannelStatistics(nn.Module):
    """Mean and standard deviation of every latent channel; buffers have the checkpoint's hyphenated names."""

    def __init__(
        self, channels: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        self.register_buffer("mean-of-means", torch.zeros(channels, dtype=dtype, device=device))
        self.register_buffer("std-of-means", torch.ones(channels, dtype=dtype, device=device))
        self.register_load_state_dict_post_hook(_forgive_unused)  # type: ignore[no-untyped-call]

    def normalize(self, z: Tensor) -> Tensor:
        """Raw latent (B, C, ...) -> normalised latent, the transformer's input."""
        return (z - self._of("mean-of-means", z)) / self._of("std-of-means", z)

    def un_normalize(self, z: Tensor) -> Tensor:
        """Normalised latent (B, C, ...) -> raw latent, the decoder's input."""
        return z * self._of("std-of-means", z) + self._of("mean-of-means", z)

    def _of(self, name: str, z: Tensor) -> Tensor:
        # Cast at each use: a host may hold buffers on another device or in another dtype than the latent.
        statistic = self.get_buffer(name).to(device=z.device, dtype=z.dtype)
        return statistic.view(-1, *[1] * (z.ndim - 2))


def _forgive_unused(_module: nn.Module, keys: Any) -> None:
    # Released 2.0 files have these tensors and others do not, so that neither may fail strict loading.
    keys.unexpected_keys[:] = [key for key in keys.unexpected_keys if not key.endswith(OPTIONAL_KEYS)]
