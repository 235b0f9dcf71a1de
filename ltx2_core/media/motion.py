"""How much a clip moves: the optical flow between its frames, on a small grey copy of them.

Letters: N frames, H W pixel rows and columns of the small copy, R C rows and columns of blocks.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

SIDE = 64
"""Longer side, in pixels, of the small copy of a frame on which motion is measured.

At that size most motion is below one pixel between frames, which is all that the method can follow.
"""
BLOCK = 8
NOISE = 4e-3
"""Difference of neighbouring pixels, grey in [0, 1], that compression alone may make: less is no texture."""


class MotionMeter:
    """Measures the motion of a clip whose frames are added in chunks.

    Between two chunks only a small grey copy of the last frame is in memory.
    """

    def __init__(self) -> None:
        self._last: Tensor | None = None
        self._energy = 0.0
        self._pairs = 0

    def add(self, frames: Tensor) -> None:
        """Add the next frames (N, 3, H, W), uint8 or float in [-1, 1]."""
        grey = small_grey(frames)
        whole = grey if self._last is None else torch.cat((self._last, grey))
        self._last = grey[-1:]
        if len(whole) > 1:
            self._energy += float(flow_energy(whole).sum())
            self._pairs += len(whole) - 1

    @property
    def measured(self) -> bool:
        """Whether there were two frames, between which something can move."""
        return self._pairs > 0

    def speed(self, fps: float) -> float:
        """Root mean square of the optical flow so far, in per cent of the longer side per second.

        ``fps`` is the frame rate. The result is 0 for a single frame.
        """
        if not self._pairs:
            return 0.0
        pixels: float = (self._energy / self._pairs) ** 0.5
        return 100 * pixels / SIDE * fps


def small_grey(frames: Tensor) -> Tensor:
    """Shrink frames (N, 3, H, W), uint8 or float in [-1, 1], to grey ones (N, 1, H', W') in [0, 1].

    The longer of H' and W' is ``SIDE``, the shorter at least a block between two borders.
    """
    values = frames.float() / 255 if frames.dtype == torch.uint8 else frames.float() / 2 + 0.5
    # As the eye weights them (BT.601): the plain mean would be equal for many pairs of colours.
    weights = torch.tensor((0.299, 0.587, 0.114), device=values.device).view(1, 3, 1, 1)
    grey = (values * weights).sum(dim=1, keepdim=True)
    scale = SIDE / max(grey.shape[2:])
    # Gradients are known between the borders alone, where a block must fit.
    size = [max(BLOCK + 2, round(side * scale)) for side in grey.shape[2:]]
    # The mean over all pixels of a cell, since single ones would alias into motion.
    return F.interpolate(grey, size=size, mode="area")


def flow_energy(grey: Tensor) -> Tensor:
    """Mean square (N - 1,) of the optical flow between consecutive frames (N, 1, H, W), in pixels squared.

    Each block of pixels gets one flow by least squares over its gradients (Lucas and Kanade 1981), at most 2
    pixels. In blocks without texture no flow can be measured, and they do not count.
    """
    before, after = grey[:-1], grey[1:]
    middle = (before + after) / 2
    dx = (middle[..., 1:-1, 2:] - middle[..., 1:-1, :-2]) / 2
    dy = (middle[..., 2:, 1:-1] - middle[..., :-2, 1:-1]) / 2
    dt = (after - before)[..., 1:-1, 1:-1]

    def blocks(values: Tensor) -> Tensor:
        """The mean of ``values`` (N, 1, H, W) in each block of 8 x 8 pixels: R rows and C columns, (N, R, C).

        Blocks begin every 4 pixels, so that neighbours overlap by half.
        """
        return rearrange(F.avg_pool2d(values, BLOCK, stride=BLOCK // 2), "n 1 r c -> n r c")

    xx, xy, yy = blocks(dx * dx), blocks(dx * dy), blocks(dy * dy)
    xt, yt = blocks(dx * dt), blocks(dy * dt)
    # Added to the diagonal, so that noise in a block without texture is not taken for fast motion.
    floor = NOISE**2
    xx, yy = xx + floor, yy + floor
    determinant = xx * yy - xy * xy
    u, v = (xy * yt - yy * xt) / determinant, (xy * xt - xx * yt) / determinant
    seen = ((xx + yy) > 8 * floor).float()
    square = (u * u + v * v).clamp(max=4.0) * seen
    return square.sum(dim=(1, 2)) / seen.sum(dim=(1, 2)).clamp(min=1)
