"""The mel-to-waveform generator of all vocoders: transposed convolutions, each followed by residual blocks.

Letters: B batch, C channels, T mel frames, M mel bins, S samples. HiFi-GAN (Kong et al., 2020) with leaky
ReLU, or BigVGAN (Lee et al., 2023) with anti-aliased SnakeBeta; the two differ only in their activations.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from einops import rearrange
from torch import Tensor, nn

from ..config import GeneratorConfig
from .antialias import AntiAliasedSnake
from .layers import Layers

SLOPE = 0.1
FINAL_SLOPE = 0.01
"""The original code uses PyTorch's default slope for the last activation, not ``SLOPE``."""


class Generator(nn.Module):
    """Vocoder network, log-mel (B, 2, T, M) -> waveform (B, 2, T * samples_per_frame).

    T mel frames, M mel bins. Raises ValueError for a configuration whose lists or widths do not fit each
    other.
    """

    def __init__(self, config: GeneratorConfig, layers: Layers) -> None:
        super().__init__()
        rates, kernels = config.upsample_rates, config.upsample_kernels
        if len(rates) != len(kernels):
            raise ValueError(f"upsample_rates {rates} and upsample_kernels {kernels} must be equally long")
        if len(config.resblock_kernels) != len(config.resblock_dilations):
            raise ValueError(
                f"resblock_kernels {config.resblock_kernels} and resblock_dilations "
                f"{config.resblock_dilations} must be equally long"
            )
        width = config.initial_channels
        if width % 2 ** len(rates):
            raise ValueError(f"initial_channels={width} must be a multiple of 2 ** {len(rates)}")
        self.samples_per_frame = prod(rates)
        self.final_activation = config.final_activation
        self.blocks_per_stage = len(config.resblock_kernels)
        # Both channels enter as features of one signal: twice 64 mel bins.
        self.conv_pre = layers.conv1d(config.channels * config.mel_bins, width, 7)
        self.ups = nn.ModuleList()
        self.resblocks = nn.ModuleList()
        for rate, kernel in zip(rates, kernels, strict=True):
            self.ups.append(layers.conv_transpose1d(width, width // 2, kernel, stride=rate))
            width //= 2
            for size, dilations in zip(config.resblock_kernels, config.resblock_dilations, strict=True):
                self.resblocks.append(ResidualBlock(width, size, dilations, layers, amp=config.amp))
        # BigVGAN has no activation before its transposed convolutions, HiFi-GAN has one.
        self.act_up = nn.Identity() if config.amp else nn.LeakyReLU(SLOPE)
        self.act_post = AntiAliasedSnake(width, layers) if config.amp else nn.LeakyReLU(FINAL_SLOPE)
        self.conv_post = layers.conv1d(width, config.channels, 7, bias=config.final_bias)

    def forward(self, mel: Tensor) -> Tensor:
        """Log-mel (B, 2, T, M) in float32 -> waveform (B, 2, S); both channels are computed together.

        S = T * samples_per_frame samples, for T mel frames of M bins.
        """
        x = self.conv_pre(rearrange(mel, "b c t m -> b (c m) t"))
        for stage, up in enumerate(self.ups):
            x = up(self.act_up(x))
            first = stage * self.blocks_per_stage
            blocks = self.resblocks[first : first + self.blocks_per_stage]
            # The blocks run in parallel on the same input; their mean has the level of one.
            x = sum(block(x) for block in blocks) / self.blocks_per_stage
        waveform: Tensor = self.conv_post(self.act_post(x))
        if self.final_activation == "tanh":
            return waveform.tanh()
        if self.final_activation == "clamp":
            return waveform.clamp(-1, 1)
        return waveform


class ResidualBlock(nn.Module):
    """x + conv(act(dilated conv(act(x)))), for each of ``dilations`` in turn.

    ``amp`` chooses the anti-aliased SnakeBeta activation of BigVGAN instead of leaky ReLU.
    """

    def __init__(
        self, width: int, kernel: int, dilations: Sequence[int], layers: Layers, *, amp: bool
    ) -> None:
        super().__init__()

        def activation() -> nn.Module:
            return AntiAliasedSnake(width, layers) if amp else nn.LeakyReLU(SLOPE)

        self.convs1 = nn.ModuleList(layers.conv1d(width, width, kernel, dilation=d) for d in dilations)
        self.convs2 = nn.ModuleList(layers.conv1d(width, width, kernel) for _ in dilations)
        self.acts1 = nn.ModuleList(activation() for _ in dilations)
        self.acts2 = nn.ModuleList(activation() for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        for conv1, conv2, act1, act2 in zip(self.convs1, self.convs2, self.acts1, self.acts2, strict=True):
            x = x + conv2(act2(conv1(act1(x))))
        return x
