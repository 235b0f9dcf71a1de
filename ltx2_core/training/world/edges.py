"""Edges of pictures: a control signal, how well two sets agree, and how sharp they are."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def edge_map(frames: Tensor, *, threshold: float = 0.25, sigma: float = 1.0) -> Tensor:
    """Thin edges of frames (F, 3, H, W) in [-1, 1]: (F, H, W) of 0 and 1, after Canny (1986), no hysteresis.

    An edge is where the smoothed gradient, of the colour channel that changes most, is at its highest across
    the edge and exceeds ``threshold`` per pixel.
    """
    dx, dy = _gradient(_smooth(frames.float(), sigma))
    size, strongest = (dx.square() + dy.square()).sqrt().max(dim=1)
    dx, dy = (g.gather(1, strongest[:, None])[:, 0] for g in (dx, dy))
    around = F.pad(size[:, None], (1, 1, 1, 1))[:, 0]
    height, width = size.shape[1:]

    def beside(down: int, right: int) -> Tensor:
        return around[:, 1 + down : 1 + down + height, 1 + right : 1 + right + width]

    # One of four directions, in eighths of a turn.
    octant = torch.round(torch.atan2(dy, dx) / (math.pi / 4)).long() % 4
    edges = torch.zeros_like(size, dtype=torch.bool)
    for index, (down, right) in enumerate(((0, 1), (1, 1), (1, 0), (1, -1))):
        crest = (size > beside(-down, -right)) & (size >= beside(down, right))
        edges |= (octant == index) & crest
    return (edges & (size > threshold)).float()


def edge_iou(a: Tensor, b: Tensor, *, tolerance: int = 1) -> float:
    """IoU of two edge maps (F, H, W) widened by ``tolerance`` pixels; 1 if both are empty."""
    a, b = (F.max_pool2d(x[:, None], 2 * tolerance + 1, stride=1, padding=tolerance) > 0 for x in (a, b))
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def edge_sharpness(frames: Tensor) -> float:
    """How steep the edges of (F, 3, H, W) are: mean over edge pixels of gradient over contrast, per pixel.

    Contrast is the spread of the channel within 4 pixels. An edge one pixel wide gives 0.5, one that takes n
    pixels about 1 / n; 0 without edges.
    """
    frames = frames.float()
    edges = edge_map(frames) > 0
    if not bool(edges.any()):
        return 0.0
    dx, dy = _gradient(frames)
    size, strongest = (dx.square() + dy.square()).sqrt().max(dim=1)
    contrast = F.max_pool2d(frames, 9, stride=1, padding=4) + F.max_pool2d(-frames, 9, stride=1, padding=4)
    contrast = contrast.gather(1, strongest[:, None])[:, 0]
    return float((size / contrast.clamp(min=1e-3))[edges].mean())


def _gradient(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences per pixel along x and y, borders repeated."""
    padded = F.pad(frames, (1, 1, 1, 1), mode="replicate")
    dx = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    dy = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    return dx, dy


def _smooth(frames: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (F, C, H, W), borders repeated."""
    reach = max(1, math.ceil(3 * sigma))
    kernel = torch.exp(-torch.arange(-reach, reach + 1).float().square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).to(frames.device).expand(frames.shape[1], 1, -1)
    padded = F.pad(frames, (reach,) * 4, mode="replicate")
    along = F.conv2d(padded, kernel[:, :, None, :], groups=frames.shape[1])
    return F.conv2d(along, kernel[:, :, :, None], groups=frames.shape[1])
