"""What the two halves of the video autoencoder share: configuration, scale factors and latent statistics."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ..config import PaddingMode, VideoBlock, VideoVAEConfig
from .statistics import PerChannelStatistics


class AutoencoderHalf(nn.Module):
    """Base of ``VideoEncoder`` and ``VideoDecoder``; cooperative, so that one module can be both.

    ``time_scale`` pixel frames and ``space_scale`` pixel rows and columns make one latent cell; the first
    latent frame stands for a single pixel frame.
    """

    def __init__(
        self,
        config: VideoVAEConfig,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ) -> None:
        super().__init__()
        time, height, width = _strides(config.encoder_blocks)
        if (time, height, width) != _strides(config.decoder_blocks) or height != width:
            raise ValueError(
                "encoder_blocks and decoder_blocks must compress alike; check their compress_* entries"
            )
        self.config = config
        self.time_scale = time
        self.space_scale = height * config.patch_size
        self.per_channel_statistics = PerChannelStatistics(config.latent_channels, dtype=dtype, device=device)


def check_5d(x: Tensor, channels: int, what: str) -> None:
    """Raise unless ``x`` is (B, channels, T, H, W)."""
    if x.ndim != 5 or x.shape[1] != channels:
        raise ValueError(f"{what} must be (B, {channels}, T, H, W); got {tuple(x.shape)}")


def check_reflection(padding: PaddingMode, rows: int, columns: int) -> None:
    """Raise if a latent is too small to be padded by reflection, which takes the second row from the edge."""
    if padding == "reflect" and min(rows, columns) < 2:
        raise ValueError(
            "this autoencoder (LTX-2.0) pads by reflection and needs at least 2 latent rows and columns; "
            f"got a latent of {rows}x{columns}, use a larger picture or tile"
        )


def _strides(blocks: Sequence[VideoBlock]) -> tuple[int, int, int]:
    time, height, width = zip(*(block.strides for block in blocks), strict=True)
    return prod(time), prod(height), prod(width)
