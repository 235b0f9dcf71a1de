"""Edges of frames: edge maps for control videos, the agreement of two maps, and the sharpness of edges."""

from __future__ import annotations

import math

import torch
from einops import repeat
from torch import Tensor
from torch.nn import functional as F


def edge_map(frames: Tensor, *, threshold: float = 0.25, sigma: float = 1.0) -> Tensor:
    """Find thin edges of frames (F, 3, H, W) in [-1, 1]: a map (F, H, W) of 0 and 1.

    The method is that of Canny (1986) without hysteresis. Frames are blurred by a Gaussian of ``sigma``
    pixels. An edge pixel is a maximum of the gradient across the edge, in the colour channel that changes
    most, and its gradient exceeds ``threshold`` per pixel.
    """
    dx, dy = _gradient(_smooth(frames.float(), sigma))
    size, strongest = (dx.square() + dy.square()).sqrt().max(dim=1)
    dx, dy = (g.gather(1, strongest[:, None])[:, 0] for g in (dx, dy))
    # Zeros beyond the border, so that an edge along it is a maximum.
    padded = F.pad(size[:, None], (1, 1, 1, 1))[:, 0]
    height, width = size.shape[1:]

    def neighbour(down: int, right: int) -> Tensor:
        return padded[:, 1 + down : 1 + down + height, 1 + right : 1 + right + width]

    # The direction of the gradient, rounded to one of four: multiples of 45 degrees, opposite ones together.
    octant = torch.round(torch.atan2(dy, dx) / (math.pi / 4)).long() % 4
    edges = torch.zeros_like(size, dtype=torch.bool)
    for index, (down, right) in enumerate(((0, 1), (1, 1), (1, 0), (1, -1))):
        # Strict on one side only: of two equal neighbours exactly one is the edge.
        crest = (size > neighbour(-down, -right)) & (size >= neighbour(down, right))
        edges |= (octant == index) & crest
    return (edges & (size > threshold)).float()


def edge_frames(frames: Tensor) -> Tensor:
    """The control video of frames (F, 3, H, W): their edges in white on black, (F, 3, H, W), -1 or 1."""
    return repeat(edge_map(frames) * 2 - 1, "f h w -> f c h w", c=3)


def edge_iou(a: Tensor, b: Tensor, *, tolerance: int = 1) -> float:
    """Intersection over union of two edge maps (F, H, W) of 0 and 1; 1 if both are empty.

    Each map is first dilated by ``tolerance`` pixels.
    """
    a, b = (F.max_pool2d(x[:, None], 2 * tolerance + 1, stride=1, padding=tolerance) > 0 for x in (a, b))
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def edge_sharpness(frames: Tensor) -> float:
    """Sharpness of the edges of frames (F, 3, H, W): the mean over edge pixels of gradient / contrast.

    Both are those of the colour channel with the largest gradient at the pixel; contrast is the difference of
    its highest and lowest value within 4 pixels of there. A step between two pixels gives 0.5, a ramp over
    n pixels about 1 / n; frames without edges give 0.
    """
    frames = frames.float()
    edges = edge_map(frames) > 0
    if not bool(edges.any()):
        return 0.0
    dx, dy = _gradient(frames)
    size, strongest = (dx.square() + dy.square()).sqrt().max(dim=1)
    contrast = F.max_pool2d(frames, 9, stride=1, padding=4) + F.max_pool2d(-frames, 9, stride=1, padding=4)
    # Of the same channel as the gradient: another one may change more within these pixels, at another edge.
    contrast = contrast.gather(1, strongest[:, None])[:, 0]
    return float((size / contrast.clamp(min=1e-3))[edges].mean())


def _gradient(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Changes per pixel of (F, C, H, W) along x and along y, by central differences, borders replicated."""
    padded = F.pad(frames, (1, 1, 1, 1), mode="replicate")
    dx = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    dy = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    return dx, dy


def _smooth(frames: Tensor, sigma: float) -> Tensor:
    """Blur (F, C, H, W) by a Gaussian of ``sigma`` pixels, with replicated borders."""
    reach = max(1, math.ceil(3 * sigma))
    kernel = torch.exp(-torch.arange(-reach, reach + 1).float().square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).to(frames.device).expand(frames.shape[1], 1, -1)
    padded = F.pad(frames, (reach,) * 4, mode="replicate")
    # A Gaussian is separable: rows, then columns.
    along = F.conv2d(padded, kernel[:, :, None, :], groups=frames.shape[1])
    return F.conv2d(along, kernel[:, :, :, None], groups=frames.shape[1])
