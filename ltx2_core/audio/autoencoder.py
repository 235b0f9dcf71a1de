"""Audio autoencoder: log-mel to latent and back, causal in time.

Letters: B batch, C channels, T mel frames, M mel bins, L latent frames, N latent bins. Time and mel bins are
both compressed by 4: latent frame 0 stands for mel frame 0, latent frame i for mel frames 4i - 3 to 4i.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..config import AudioVAEConfig
from .layers import Layers, in_float32

NORM_EPS = 1e-6
"""Epsilon of the norms of the audio autoencoder; that of the video autoencoder is 1e-8."""


class AudioEncoder(nn.Module):
    """Log-mel spectrogram to normalised latent, the mean of the posterior.

    State dict: ``encoder.*`` and ``per_channel_statistics.*``.
    """

    def __init__(
        self,
        config: AudioVAEConfig,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ) -> None:
        super().__init__()
        layers = Layers(operations, dtype, device)
        self.config = config
        self.encoder = _Encoder(config, layers)
        self.per_channel_statistics = LatentStatistics(config, layers)

    def forward(self, mel: Tensor) -> Tensor:
        """mel (B, 2, T, M) -> normalised latent (B, 8, L, N) in float32.

        T mel frames, M mel bins; L = ceil(T / 4) latent frames, N = M / 4 latent bins.
        """
        # Autocast would round the convolutions to bfloat16, which is audible.
        with in_float32(mel.device):
            # The second half is the log-variance of the posterior, which is needed only for training.
            mean, _ = self.encoder(mel.float()).chunk(2, dim=1)
            return self.per_channel_statistics.normalize(mean)


class AudioDecoder(nn.Module):
    """Normalised latent to log-mel spectrogram.

    State dict: ``decoder.*`` and ``per_channel_statistics.*``.
    """

    def __init__(
        self,
        config: AudioVAEConfig,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ) -> None:
        super().__init__()
        layers = Layers(operations, dtype, device)
        self.config = config
        self.decoder = _Decoder(config, layers)
        self.per_channel_statistics = LatentStatistics(config, layers)

    def forward(self, latent: Tensor) -> Tensor:
        """Normalised latent (B, 8, L, N) -> mel (B, 2, 4L - 3, M) in float32.

        L latent frames, N latent bins; M = 4N mel bins.
        """
        with in_float32(latent.device):
            mel: Tensor = self.decoder(self.per_channel_statistics.un_normalize(latent.float()))
            return mel


class LatentStatistics(nn.Module):
    """Mean and standard deviation for each pair of latent channel and latent bin.

    They are stored flat in the order of a token's features: index = channel * bins + bin.
    """

    def __init__(self, config: AudioVAEConfig, layers: Layers) -> None:
        super().__init__()
        # Each channel and bin has statistics of its own, flat in the order of the features of a token.
        self.bins = config.latent_bins
        size = config.z_channels * config.latent_bins
        # The names of the checkpoint are no identifiers, so that get_buffer reads them.
        self.register_buffer("mean-of-means", torch.zeros(size, dtype=layers.dtype, device=layers.device))
        self.register_buffer("std-of-means", torch.ones(size, dtype=layers.dtype, device=layers.device))

    def normalize(self, latent: Tensor) -> Tensor:
        """Raw latent (B, C, L, N) -> zero mean and unit deviation for each of C channels and N bins.

        L is the number of latent frames.
        """
        return (latent - self._table("mean-of-means", latent)) / self._table("std-of-means", latent)

    def un_normalize(self, latent: Tensor) -> Tensor:
        """Normalised latent (B, C, L, N) -> raw; the inverse of ``normalize``."""
        return latent * self._table("std-of-means", latent) + self._table("mean-of-means", latent)

    def _table(self, name: str, like: Tensor) -> Tensor:
        table = self.get_buffer(name).to(device=like.device, dtype=like.dtype)
        return rearrange(table, "(c n) -> c 1 n", n=self.bins)


class _Encoder(nn.Module):
    def __init__(self, config: AudioVAEConfig, layers: Layers) -> None:
        super().__init__()
        widths = _widths(config)
        self.conv_in = CausalConv2d(config.in_channels, widths[0], layers)
        self.down = nn.ModuleList()
        for level, width in enumerate(widths):
            stage = _Stage(widths[max(level - 1, 0)], width, config.num_res_blocks, layers)
            if level < len(widths) - 1:
                stage.downsample = Downsample(width, layers)
            self.down.append(stage)
        self.mid = _Middle(widths[-1], layers)
        # Twice the channels, since the encoder predicts mean and log-variance.
        self.conv_out = CausalConv2d(widths[-1], 2 * config.z_channels, layers)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for stage in self.down:
            x = stage(x)
        out: Tensor = self.conv_out(F.silu(pixel_norm(self.mid(x))))
        return out


class _Decoder(nn.Module):
    def __init__(self, config: AudioVAEConfig, layers: Layers) -> None:
        super().__init__()
        widths = _widths(config)
        self.conv_in = CausalConv2d(config.z_channels, widths[-1], layers)
        self.mid = _Middle(widths[-1], layers)
        self.up = nn.ModuleList()
        for level, width in enumerate(widths):
            # One block more than in the encoder, as in latent diffusion (Rombach et al. 2022), which the
            # names of the modules are from, too.
            stage = _Stage(widths[min(level + 1, len(widths) - 1)], width, config.num_res_blocks + 1, layers)
            if level > 0:
                stage.upsample = Upsample(width, layers)
            self.up.append(stage)
        self.conv_out = CausalConv2d(widths[0], config.out_channels, layers)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(self.conv_in(x))
        # Stages are stored by level, finest first, and run from the coarsest.
        for stage in reversed(self.up):
            x = stage(x)
        out: Tensor = self.conv_out(F.silu(pixel_norm(x)))
        return out


class _Stage(nn.Module):
    """Residual blocks of one resolution, followed by a down- or upsampling, if the stage has one.

    ``inner`` are the channels of the input, ``outer`` those of the output; ``blocks`` is the number of
    blocks.
    """

    def __init__(self, inner: int, outer: int, blocks: int, layers: Layers) -> None:
        super().__init__()
        entries = [inner] + [outer] * (blocks - 1)
        self.block = nn.ModuleList(ResidualBlock(entry, outer, layers) for entry in entries)
        self.downsample: nn.Module | None = None
        self.upsample: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        for resampling in (self.downsample, self.upsample):
            if resampling is not None:
                x = resampling(x)
        return x


class _Middle(nn.Module):
    def __init__(self, width: int, layers: Layers) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(width, width, layers)
        self.block_2 = ResidualBlock(width, width, layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block_2(self.block_1(x))
        return out


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), from ``inner`` to ``outer`` channels.

    The skip is projected if the number of channels changes.
    """

    def __init__(self, inner: int, outer: int, layers: Layers) -> None:
        super().__init__()
        self.conv1 = CausalConv2d(inner, outer, layers)
        self.conv2 = CausalConv2d(outer, outer, layers)
        # The name is the checkpoint's.
        self.nin_shortcut = None if inner == outer else CausalConv2d(inner, outer, layers, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(pixel_norm(x)))
        h = self.conv2(F.silu(pixel_norm(h)))
        skip = x if self.nin_shortcut is None else self.nin_shortcut(x)
        out: Tensor = skip + h
        return out


class CausalConv2d(nn.Module):
    """Convolution over (time, mel bins), padded with zeros: in time only before, in mel on both sides.

    It maps ``inner`` to ``outer`` channels.
    """

    def __init__(self, inner: int, outer: int, layers: Layers, *, kernel: int = 3) -> None:
        super().__init__()
        side = (kernel - 1) // 2
        # Time is padded before only, so that a latent depends on no later audio.
        self.padding = (side, side, kernel - 1, 0)
        self.conv = layers.conv2d(inner, outer, kernel)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.pad(x, self.padding))
        return out


class Downsample(nn.Module):
    """Strided convolution that halves mel frames T and mel bins M: (T, M) -> (ceil(T / 2), M / 2)."""

    def __init__(self, width: int, layers: Layers) -> None:
        super().__init__()
        self.conv = layers.conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        # Mel bins after, time before: a frame must not depend on later ones.
        out: Tensor = self.conv(F.pad(x, (0, 1, 2, 0)))
        return out


class Upsample(nn.Module):
    """Doubles mel frames T and mel bins M by nearest neighbours, then convolves: (T, M) -> (2T - 1, 2M)."""

    def __init__(self, width: int, layers: Layers) -> None:
        super().__init__()
        self.conv = CausalConv2d(width, width, layers)

    def forward(self, x: Tensor) -> Tensor:
        doubled: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        # The first latent frame stands for a single mel frame, so one of its two copies is dropped.
        return doubled[:, :, 1:]


def pixel_norm(x: Tensor) -> Tensor:
    """Root-mean-square normalisation over the channels of x (B, C, T, M) (Karras et al. 2018, 1710.10196).

    T frames, M bins.
    """
    return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + NORM_EPS)


def _widths(config: AudioVAEConfig) -> Sequence[int]:
    return [config.channels * multiplier for multiplier in config.channel_mult]
