"""Latent upsampler: a small convolutional net that enlarges a video latent in space, in time or in both.

B batch, C channels, f h w latent frames, rows and columns; tensors are (B, C, f, h, w). Its group norms take
statistics over the whole clip, so that tiles or chunks would give another result. A whole latent is small
enough to be computed at once.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from . import latent_filters
from .config import UpsamplerConfig
from .types import LayerOptions
from .video_vae import PerChannelStatistics

NORM_GROUPS = 32
RATIOS = {0.75: (3, 4), 1.5: (3, 2), 2.0: (2, 1), 4.0: (4, 1)}
"""Spatial scales of the rational resampler, each as (numerator, denominator)."""


def upsample_latent(
    net: LatentUpsampler,
    latent: Tensor,
    statistics: PerChannelStatistics,
    *,
    adain: float = 0.0,
    per_frame: bool = False,
    tone_map: float = 0.0,
) -> Tensor:
    """Enlarge a normalised latent (B, C, f, h, w) by ``net``: returns a normalised latent (B, C, f', h', w').

    f, h, w are latent frames, rows and columns. ``statistics`` are those of the video autoencoder, since the
    net works on un-normalised latents. ``adain`` in [0, 1] moves mean and deviation of each channel back to
    those of ``latent`` (of each latent frame with ``per_frame``), ``tone_map`` in [0, 1] compresses large
    values; 0 turns either off. A temporal upsampler doubles the frame rate: duration and audio do not change.
    """
    raw = statistics.un_normalize(latent)
    upsampled: Tensor = net(raw)
    if adain:
        upsampled = latent_filters.adain(upsampled, raw, factor=adain, per_frame=per_frame)
    if tone_map:
        upsampled = latent_filters.tone_map(upsampled, tone_map)
    return statistics.normalize(upsampled)


class LatentUpsampler(nn.Module):
    """The upsampler's network, on un-normalised latents: residual blocks, upsampling, residual blocks."""

    def __init__(
        self,
        config: UpsamplerConfig,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ) -> None:
        super().__init__()
        factory: LayerOptions = {"dtype": dtype, "device": device}
        width = config.mid_channels
        self.config = config
        self.initial_conv = operations.Conv3d(config.in_channels, width, 3, padding=1, **factory)
        self.initial_norm = operations.GroupNorm(NORM_GROUPS, width, **factory)
        self.res_blocks = _blocks(config, operations, factory)
        self.upsampler = _resampler(config, operations, factory)
        self.post_upsample_res_blocks = _blocks(config, operations, factory)
        self.final_conv = operations.Conv3d(width, config.in_channels, 3, padding=1, **factory)

    def forward(self, z: Tensor) -> Tensor:
        """Enlarge an un-normalised latent: (B, C, f, h, w) -> (B, C, f', h', w').

        f latent frames, h rows, w columns. A net x2 gives 2h x 2w, one x1.5 gives ceil(1.5h) x ceil(1.5w), a
        temporal one gives 2f - 1 latent frames.
        """
        h = F.silu(self.initial_norm(self.initial_conv(z)))
        for block in self.res_blocks:
            h = block(h)
        h = self.upsampler(h)
        for block in self.post_upsample_res_blocks:
            h = block(h)
        out: Tensor = self.final_conv(h)
        return out


class ResBlock(nn.Module):
    """Two convolutions with group norm and a skip connection; the last SiLU follows the addition.

    ``operations`` is a namespace of layers like ``torch.nn``, ``factory`` their dtype and device.
    """

    def __init__(self, channels: int, operations: Any, factory: LayerOptions) -> None:
        super().__init__()
        self.conv1 = operations.Conv3d(channels, channels, 3, padding=1, **factory)
        self.norm1 = operations.GroupNorm(NORM_GROUPS, channels, **factory)
        self.conv2 = operations.Conv3d(channels, channels, 3, padding=1, **factory)
        self.norm2 = operations.GroupNorm(NORM_GROUPS, channels, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, f, h, w) -> the same shape: f latent frames, h rows, w columns."""
        h = F.silu(self.norm1(self.conv1(x)))
        return F.silu(self.norm2(self.conv2(h)) + x)


class Shuffle(nn.Module):
    """Pixel shuffle in three dimensions: moves channels to more latent frames, rows and columns.

    ``time`` and ``space`` are the factors, 1 or 2. With ``time`` 2 the first frame of the result is dropped,
    because the first latent frame stands for one pixel frame only.
    """

    def __init__(self, time: int, space: int) -> None:
        super().__init__()
        self.time = time
        self.space = space

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C p q q, f, h, w) -> (B, C, p f - p + 1, q h, q w), with p = ``time`` and q = ``space``.

        C channels, f latent frames, h rows, w columns.
        """
        x = rearrange(
            x, "b (c p q r) f h w -> b c (f p) (h q) (w r)", p=self.time, q=self.space, r=self.space
        )
        # The first latent frame stands for one pixel frame and must not become two.
        return x[:, :, self.time - 1 :]


class PerFrame(nn.Sequential):
    """A sequence of two-dimensional layers, applied to each frame of a clip separately."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, f, h, w) -> (B, C', f, h', w'): f frames of h rows and w columns."""
        batch = x.shape[0]
        # Spatial upscalers have two-dimensional layers, so that frames take the place of the batch.
        frames = rearrange(x, "b c f h w -> (b f) c h w")
        for layer in self:
            frames = layer(frames)
        return rearrange(frames, "(b f) c h w -> b c f h w", b=batch)


class RationalResampler(nn.Module):
    """Scales height and width by p / q: a pixel shuffle by p, then a low-pass filter and every q-th pixel.

    ``scale`` = p / q is a key of ``RATIOS``.
    """

    def __init__(self, channels: int, scale: float, operations: Any, factory: LayerOptions) -> None:
        super().__init__()
        self.up, self.down = RATIOS[scale]
        self.conv = operations.Conv2d(channels, self.up**2 * channels, 3, padding=1, **factory)
        self.blur_down = Blur(self.down, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, f, h, w) -> (B, C, f, h', w'), with h' and w' the rows and columns times ``scale``."""
        batch = x.shape[0]
        frames = F.pixel_shuffle(self.conv(rearrange(x, "b c f h w -> (b f) c h w")), self.up)
        if self.down > 1:
            frames = self.blur_down(frames)
        return rearrange(frames, "(b f) c h w -> b c f h w", b=batch)


class Blur(nn.Module):
    """Binomial 5 x 5 low-pass filter of each channel, evaluated at every ``stride``-th pixel, zero-padded."""

    def __init__(
        self, stride: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        self.stride = stride
        taps = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], device=device, dtype=dtype) / 16
        self.register_buffer("kernel", torch.outer(taps, taps)[None, None])

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, h, w) -> (N, C, ceil(h / stride), ceil(w / stride)): N frames of h rows and w columns."""
        channels = x.shape[1]
        # Cast when used, since a host may hold the kernel in another dtype.
        kernel = self.get_buffer("kernel").to(device=x.device, dtype=x.dtype)
        return F.conv2d(
            x, kernel.expand(channels, -1, -1, -1), stride=self.stride, padding=2, groups=channels
        )


def _blocks(config: UpsamplerConfig, operations: Any, factory: LayerOptions) -> nn.ModuleList:
    return nn.ModuleList(
        [ResBlock(config.mid_channels, operations, factory) for _ in range(config.blocks_per_stage)]
    )


def _resampler(config: UpsamplerConfig, operations: Any, factory: LayerOptions) -> nn.Module:
    width = config.mid_channels
    if config.temporal:
        space = 2 if config.spatial else 1
        conv = operations.Conv3d(width, 2 * space**2 * width, 3, padding=1, **factory)
        return nn.Sequential(conv, Shuffle(2, space))
    if config.rational:
        if config.spatial_scale not in RATIOS:
            raise ValueError(f"spatial_scale must be one of {sorted(RATIOS)}; got {config.spatial_scale}")
        return RationalResampler(width, config.spatial_scale, operations, factory)
    return PerFrame(operations.Conv2d(width, 4 * width, 3, padding=1, **factory), nn.PixelShuffle(2))
