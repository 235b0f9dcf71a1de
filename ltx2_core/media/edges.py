"""Edge detection for control videos, after Canny (1986), with two thresholds.

Letters: N frames, H W pixel rows and columns.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

LUMA = (0.299, 0.587, 0.114)
# The sigma of the Gaussian, in pixels, that is usual for Canny (a kernel of 5 to 7 pixels).
SMOOTHING = 1.4


def canny(frames: Tensor, low: float = 0.1, high: float = 0.3) -> Tensor:
    """Detect edges in frames (N, 3, H, W) in [0, 1]; returns (N, H, W), 1.0 on an edge and 0.0 elsewhere.

    Candidates are pixels at which the gradient of the smoothed luma is a local maximum across the edge. A
    candidate is an edge if its gradient is above ``high``, or if it is above ``low`` and connected to such an
    edge by candidates above ``low``. A gradient is the difference of luma, at most 1, between the two sides
    of a pixel, by Sobel's operator. A sharp step from black to white has a gradient of 0.52 after smoothing.

    Raises ValueError for thresholds that are not 0 < low <= high <= 1, or frames of another shape.
    """
    if not 0 < low <= high <= 1:
        raise ValueError(f"low={low:g} and high={high:g} must be above 0, at most 1, and low not above high")
    if frames.ndim != 4 or frames.shape[1] != 3:
        raise ValueError(f"frames must be (N, 3, H, W); got {tuple(frames.shape)}")
    # Sixteen frames at a time bound the memory of the intermediate gradients.
    return torch.cat([_edges(part, low, high) for part in frames.split(16)])


def _edges(frames: Tensor, low: float, high: float) -> Tensor:
    # The weights are those of BT.601.
    grey = (frames.float() * frames.new_tensor(LUMA, dtype=torch.float32).view(1, 3, 1, 1)).sum(
        1, keepdim=True
    )
    dx, dy = _sobel(_smoothed(grey))
    size = torch.hypot(dx, dy)
    crest = _on_crest(size, dx, dy)
    strong, weak = crest & (size > high), crest & (size > low)
    # Each pass grows the edges by one pixel along weak candidates, until nothing changes.
    while True:
        around = F.max_pool2d(strong.float()[:, None], 3, stride=1, padding=1)[:, 0] > 0
        grown = around & weak
        if bool((grown == strong).all()):
            return strong.float()
        strong = grown | strong


def _smoothed(grey: Tensor) -> Tensor:
    reach = math.ceil(2 * SMOOTHING)
    kernel = torch.exp(-(torch.arange(-reach, reach + 1).to(grey) ** 2) / (2 * SMOOTHING**2))
    # The kernel is cut off at two sigma, where its sum is not 1 and would darken the frame.
    kernel = kernel / kernel.sum()
    # Zeros at the border would be an edge around every frame.
    padded = F.pad(grey, (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))


def _sobel(grey: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of ``grey`` (N, 1, H, W) along x and y by Sobel's operator, each (N, H, W)."""
    # The weights of one side sum to 4, so that the quotient is a difference of lumas, at most 1.
    kernel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]).to(grey) / 4
    gradients = F.conv2d(F.pad(grey, (1,) * 4, mode="replicate"), torch.stack((kernel, kernel.T))[:, None])
    return gradients[:, 0], gradients[:, 1]


def _on_crest(size: Tensor, dx: Tensor, dy: Tensor) -> Tensor:
    """Mask (N, H, W), True at pixels where the gradient is a local maximum across the edge.

    ``size`` is the gradient's magnitude, ``dx`` and ``dy`` are its components, each (N, H, W). The gradient's
    direction is rounded to the nearest of four: horizontal, vertical and the two diagonals.
    """
    # Zeros here, unlike above, let an edge reach the border of the frame.
    around = F.pad(size[:, None], (1,) * 4)[:, 0]
    height, width = size.shape[1:]
    # Opposite directions are the same axis, hence modulo 4.
    octant = torch.round(torch.atan2(dy, dx) / (math.pi / 4)).long() % 4
    crest = torch.zeros_like(size, dtype=torch.bool)
    for index, (down, right) in enumerate(((0, 1), (1, 1), (1, 0), (1, -1))):
        behind = around[:, 1 - down : 1 - down + height, 1 - right : 1 - right + width]
        ahead = around[:, 1 + down : 1 + down + height, 1 + right : 1 + right + width]
        # Greater on one side and at least equal on the other, so that a plateau of two pixels gives one edge.
        crest |= (octant == index) & (size > behind) & (size >= ahead)
    return crest
