"""Anti-aliased SnakeBeta activation: upsample by two, apply the nonlinearity, downsample by two.

Letters: B batch, C channels, S samples. From BigVGAN (Lee et al., 2023), section 3.2; the snake function is
from Ziyin et al. (2020).
"""

from __future__ import annotations

import math

import numpy as np
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .layers import Layers

RATIO = 2
TAPS = 12
CUTOFF = 0.5 / RATIO
# The transition band of the filter, with the constants of BigVGAN, by which its activations were trained.
HALF_WIDTH = 0.6 / RATIO


class AntiAliasedSnake(nn.Module):
    """SnakeBeta activation at twice the sample rate, x (B, C, S) -> (B, C, S): C channels, S samples.

    The nonlinearity creates overtones. At the doubled rate they can be filtered out before they alias.
    """

    def __init__(self, channels: int, layers: Layers) -> None:
        super().__init__()
        self.upsample = UpsampleByTwo(layers)
        self.act = SnakeBeta(channels, layers)
        self.downsample = DownsampleByTwo(layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.downsample(self.act(self.upsample(x)))
        return out


class SnakeBeta(nn.Module):
    """The activation x + sin²(αx) / β on x (B, C, S): C channels, S samples.

    There is one α and one β per channel; the parameters are their logarithms.
    """

    def __init__(self, channels: int, layers: Layers) -> None:
        super().__init__()
        self.alpha = nn.Parameter(layers.constant([0.0] * channels))
        self.beta = nn.Parameter(layers.constant([0.0] * channels))

    def forward(self, x: Tensor) -> Tensor:
        # Tables are cast here and not when loaded, because a host may store them in another dtype.
        alpha, beta = (
            rearrange(table.to(device=x.device, dtype=x.dtype).exp(), "c -> c 1")
            for table in (self.alpha, self.beta)
        )
        # The bound guards against a table whose exponential rounds to 0.
        return x + (x * alpha).sin().square() / (beta + 1e-9)


class UpsampleByTwo(nn.Module):
    """Windowed-sinc interpolation to twice the sample rate, (B, C, S) -> (B, C, 2S).

    C channels, S samples.
    """

    filter: Tensor

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.register_buffer("filter", layers.constant([[lowpass_taps()]]))

    def forward(self, x: Tensor) -> Tensor:
        # The padding of 5 samples and the length of the filter add 30 samples, as many at either end.
        return upsample(x, self.filter, RATIO, edge=TAPS // RATIO - 1, cut=(15, 15))


class DownsampleByTwo(nn.Module):
    """Windowed-sinc low-pass filter and decimation to half the sample rate, (B, C, 2S) -> (B, C, S).

    C channels, 2S samples before and S after.
    """

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.lowpass = Lowpass(layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.lowpass(x)
        return out


class Lowpass(nn.Module):
    """Low-pass filter and decimation by two, (B, C, 2S) -> (B, C, S): C channels, 2S samples before, S after.

    It is a module of its own only to match names in the checkpoint.
    """

    filter: Tensor

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.register_buffer("filter", layers.constant([[lowpass_taps()]]))

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        taps = self.filter.to(device=x.device, dtype=x.dtype).expand(channels, 1, -1)
        # An even number of taps has no centre; BigVGAN pads one sample more behind than before.
        padded = F.pad(x, (TAPS // 2 - 1, TAPS // 2), mode="replicate")
        return F.conv1d(padded, taps, stride=RATIO, groups=channels)


def upsample(x: Tensor, taps: Tensor, ratio: int, *, edge: int, cut: tuple[int, int]) -> Tensor:
    """Interpolate x (B, C, S) -> (B, C, ratio * S) with a filter ``taps`` (1, 1, K) whose values sum to 1.

    C channels, S samples, K taps. The input is padded by repeating its first and last sample ``edge`` times.
    From the result, ``cut`` samples are dropped: (at the start, at the end).
    """
    channels = x.shape[1]
    # Zeros at the ends would make a step, which the filter turns into ringing.
    padded = F.pad(x, (edge, edge), mode="replicate")
    # The zeros that are inserted between samples lower the level by the ratio; the gain restores it.
    gained = (taps.to(device=x.device, dtype=x.dtype) * ratio).expand(channels, 1, -1)
    out = F.conv_transpose1d(padded, gained, stride=ratio, groups=channels)
    return out[..., cut[0] : out.shape[-1] - cut[1]]


def lowpass_taps() -> list[float]:
    """Kaiser-windowed sinc low-pass filter of 12 taps with sum 1, cut off at a quarter of the doubled rate.

    Released checkpoints store these filters, and loading replaces the values returned here, so that the
    values matter only for new models. The formula of the window's beta is Kaiser's (1974).
    """
    attenuation = 2.285 * (TAPS // 2 - 1) * math.pi * 4 * HALF_WIDTH + 7.95
    if attenuation > 50:
        beta = 0.1102 * (attenuation - 8.7)
    elif attenuation >= 21:
        beta = 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    else:
        beta = 0.0
    t = np.arange(TAPS) - (TAPS - 1) / 2
    taps = np.kaiser(TAPS, beta) * np.sinc(2 * CUTOFF * t)
    # A sum of 1 leaves a constant signal unchanged.
    return [float(value) for value in taps / taps.sum()]
