"""Common bases of video encoder and decoders: configuration, scale factors, latent statistics and checks."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ..config import PaddingMode, VideoBlock, VideoVAEConfig
from .statistics import PerChannelStatistics


class AutoencoderHalf(nn.Module):
    """Base class of the encoder and of the decoders; ``VideoVAE`` inherits from both halves.

    One latent cell covers ``time_scale`` pixel frames and ``space_scale`` pixel rows and columns, except that
    the first latent frame covers a single pixel frame. Raises ValueError if the blocks of encoder and decoder
    in the configuration do not compress by the same factors.
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
        decoder = _strides(config.decoder_blocks) if config.diffusion is None else config.diffusion.strides
        # Positions, masks and plans assume one factor for both halves and for both axes of the frame.
        if (time, height, width) != decoder or height != width:
            raise ValueError(
                "encoder_blocks and the decoder's blocks or upsamples must compress alike; check their "
                "compress_* entries"
            )
        self.config = config
        self.time_scale = time
        self.space_scale = height * config.patch_size
        self.per_channel_statistics = PerChannelStatistics(config.latent_channels, dtype=dtype, device=device)


class DecodingHalf(AutoencoderHalf):
    """Base class of both kinds of decoder: the network ``decoder`` and the latent statistics.

    State dict: ``decoder.*`` and ``per_channel_statistics.*``. Subclasses build the network.
    """

    def __init__(
        self,
        config: VideoVAEConfig,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ) -> None:
        super().__init__(config, dtype=dtype, device=device, operations=operations)
        self.decoder = self._network(config, dtype=dtype, device=device, operations=operations)

    def _network(self, config: VideoVAEConfig, **options: Any) -> nn.Module:
        """Build the network that ``config`` describes; ``options`` are dtype, device and operations."""
        raise NotImplementedError


def check_5d(x: Tensor, channels: int, what: str) -> None:
    """Raise ValueError unless ``x`` is (B, channels, T, H, W).

    ``what`` is the tensor's name in the message.
    """
    if x.ndim != 5 or x.shape[1] != channels:
        raise ValueError(f"{what} must be (B, {channels}, T, H, W); got {tuple(x.shape)}")


def check_reflection(padding: PaddingMode, rows: int, columns: int) -> None:
    """Raise ValueError if a latent of ``rows`` x ``columns`` cannot be padded by reflection.

    Reflection needs two rows and two columns; the other mode of ``padding``, zeros, works with any number.
    """
    if padding == "reflect" and min(rows, columns) < 2:
        raise ValueError(
            "this autoencoder (LTX-2.0) pads by reflection and needs at least 2 latent rows and columns; "
            f"got a latent of {rows}x{columns}, use a larger frame or tile"
        )


def _strides(blocks: Sequence[VideoBlock]) -> tuple[int, int, int]:
    time, height, width = zip(*(block.strides for block in blocks), strict=True)
    return prod(time), prod(height), prod(width)
