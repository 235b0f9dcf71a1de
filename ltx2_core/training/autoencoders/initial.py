"""Initial weights for convolutions: a network of them starts nearly linear and nearly isometric."""

from __future__ import annotations

import math

import torch
from torch import nn

ROTATION = 0.8
NOISE = 0.3


@torch.no_grad()
def rotate_convolution(conv: nn.Conv2d | nn.Conv3d, generator: torch.Generator) -> None:
    """A random rotation (semi-orthogonal) of the channels at the centre, and a little noise everywhere.

    Signals and gradients then pass through all scales from the first step (dynamical isometry: Saxe et al.,
    2014), which matters more here than depth: half of a shallow autoencoder's training went into waking up.
    """
    fan_in = math.prod(conv.weight.shape[1:])
    conv.weight.normal_(0, NOISE / math.sqrt(fan_in), generator=generator)
    rotation = nn.init.orthogonal_(torch.empty(conv.weight.shape[:2]), generator=generator)
    # The middle of all taps is the centre of a kernel of odd sizes.
    taps = conv.weight.flatten(2)
    taps[:, :, taps.shape[2] // 2] += ROTATION * rotation
    if conv.bias is not None:
        conv.bias.zero_()
