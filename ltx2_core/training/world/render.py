"""Pictures of a scene. F frames, H W rows and columns of pixels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .palette import Kind, rgb
from .scene import EXTENTS, Body, Scene


def render_frames(scene: Scene, frames: int, width: int, height: int) -> Tensor:
    """Antialiased frames (F, 3, H, W) float32 in [-1, 1]."""
    picture = torch.tensor(rgb(scene.background)).view(1, 3, 1, 1).expand(frames, 3, height, width)
    for body in scene.bodies:
        cover = _coverage(body, scene.times(frames), width, height)
        picture = torch.lerp(picture, torch.tensor(rgb(body.colour)).view(1, 3, 1, 1), cover[:, None])
    return picture.contiguous()


def _coverage(body: Body, times: Tensor, width: int, height: int) -> Tensor:
    """How much of each pixel the body covers, (F, H, W) in [0, 1]."""
    centre, radius = body.place(times, width, height)
    size = (radius * min(width, height)).float()[:, None, None]
    x = torch.arange(width) + 0.5 - (centre[:, :1] * width).float()
    y = torch.arange(height) + 0.5 - (centre[:, 1:] * height).float()
    return (0.5 - distance(body.kind, x[:, None, :], y[:, :, None], size)).clamp_(0, 1)


def distance(kind: Kind, x: Tensor, y: Tensor, radius: Tensor | float) -> Tensor:
    """Signed distance to the outline, negative inside; x to the right and y down from the centroid.

    Outside a corner it is the distance to the nearest edge's line, which is enough to antialias.
    """
    extent = EXTENTS[kind]
    if kind == "circle":
        return torch.sqrt(x * x + y * y) - radius
    if kind == "square":
        return torch.maximum(x.abs(), y.abs()) - extent.side * radius
    slanted = x.abs() * (math.sqrt(3) / 2) - y / 2
    return torch.maximum(slanted, y) - extent.down * radius
