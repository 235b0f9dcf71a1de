"""Initial weights for convolutions, with which a network starts nearly linear and nearly isometric."""

from __future__ import annotations

import math

import torch
from torch import nn

ROTATION = 0.8
"""Gain of the rotation at the centre of a kernel."""
NOISE = 0.3
"""Gain of the noise over the whole kernel."""


@torch.no_grad()
def rotate_convolution(conv: nn.Conv2d | nn.Conv3d, generator: torch.Generator) -> None:
    """Set the kernel of ``conv`` to a random semi-orthogonal matrix at its centre plus noise, its bias to 0.

    Signals and gradients then pass through all layers from the first step (dynamical isometry: Saxe et al.,
    2014), so that training does not begin with a plateau.
    """
    fan_in = math.prod(conv.weight.shape[1:])
    conv.weight.normal_(0, NOISE / math.sqrt(fan_in), generator=generator)
    rotation = nn.init.orthogonal_(torch.empty(conv.weight.shape[:2]), generator=generator)
    # With odd kernel sizes the middle of the flattened taps is the centre.
    taps = conv.weight.flatten(2)
    taps[:, :, taps.shape[2] // 2] += ROTATION * rotation
    if conv.bias is not None:
        conv.bias.zero_()
