"""Renders the frames of a scene of the synthetic world. F frames, H W rows and columns of pixels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .palette import Colour, Kind, rgb
from .scene import EXTENTS, Body, Scene


def render_frames(
    scene: Scene, frames: int, width: int, height: int, device: torch.device | None = None
) -> Tensor:
    """Antialiased frames (F, 3, H, W) of a scene, float32 in [-1, 1], rendered on ``device`` (None: the CPU).

    There are ``frames`` frames of ``width`` x ``height`` pixels.
    """
    device = device or torch.device("cpu")

    def paint(colour: Colour) -> Tensor:
        return torch.tensor(rgb(colour)).view(1, 3, 1, 1).to(device, non_blocking=True)

    image = paint(scene.background).expand(frames, 3, height, width)
    for body in scene.bodies:
        # Times in float64 and on the CPU, so that a clip is the same on every device.
        cover = _coverage(body, scene.times(frames), width, height, device)
        image = torch.lerp(image, paint(body.colour), cover[:, None])
    return image.contiguous()


def _coverage(body: Body, times: Tensor, width: int, height: int, device: torch.device) -> Tensor:
    """Share of each pixel that a body covers at ``times`` (F,) in seconds: (F, H, W) in [0, 1] on ``device``.

    Positions are computed on the CPU, so that they are the same on all devices.
    """
    centre, radius = body.place(times, width, height)
    places = torch.stack((centre[:, 0] * width, centre[:, 1] * height, radius * min(width, height))).float()
    # The asynchronous copy is safe: CUDA stages memory that is not pinned before the call returns.
    across, down, size = places.to(device, non_blocking=True)[:, :, None]
    # Pixels are measured at their centres.
    x = torch.arange(width, device=device) + 0.5 - across
    y = torch.arange(height, device=device) + 0.5 - down
    size = size[:, :, None]
    # The distance in pixels, moved by a half, is the covered share of a pixel that an edge crosses.
    return (0.5 - distance(body.kind, x[:, None, :], y[:, :, None], size)).clamp_(0, 1)


def distance(kind: Kind, x: Tensor, y: Tensor, radius: Tensor | float) -> Tensor:
    """Signed distance of points to the outline of a shape of size ``radius``, negative inside.

    ``x`` to the right and ``y`` down are measured from the shape's centroid, in the unit of ``radius``, which
    is that of the circle of equal area. Outside a corner it is the distance to the line of the nearest edge,
    which suffices for antialiasing.
    """
    extent = EXTENTS[kind]
    if kind == "circle":
        return torch.sqrt(x * x + y * y) - radius
    if kind == "square":
        return torch.maximum(x.abs(), y.abs()) - extent.side * radius
    slanted = x.abs() * (math.sqrt(3) / 2) - y / 2
    return torch.maximum(slanted, y) - extent.down * radius
