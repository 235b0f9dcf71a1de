"""Draws which parts of a clip are preserved and which are regenerated, as an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from .regions import Covered

WIDTH, ROW, MARGIN = 640, 34, 12
BACK, PRESERVED, REGENERATED, INK = (24, 24, 27), (82, 82, 91), (34, 160, 107), (228, 228, 231)


def draw_timeline(streams: Sequence[Covered]) -> Tensor:
    """Draw a bar for each of ``streams`` over an axis in seconds: grey is preserved, green is regenerated.

    Returns an image (height, width, 3) in [0, 1].
    """
    seconds = max(float(stream.spans[-1, 1]) for stream in streams)
    height = MARGIN + len(streams) * ROW + 24
    image = Image.new("RGB", (WIDTH, height), BACK)
    draw = ImageDraw.Draw(image)
    left, right = 64, WIDTH - MARGIN

    def x(second: float) -> float:
        return left + (right - left) * second / seconds

    for number, stream in enumerate(streams):
        top = MARGIN + number * ROW
        draw.text((MARGIN, top + 6), stream.name, fill=INK)
        draw.rectangle((x(0), top, x(float(stream.spans[-1, 1])), top + ROW - 10), fill=PRESERVED)
        for start, end in stream.ranges:
            # At least one pixel wide, so that a short region in a long clip remains visible.
            draw.rectangle((x(start), top, max(x(start) + 1, x(end)), top + ROW - 10), fill=REGENERATED)
    # About twelve ticks at most, so that their labels do not overlap.
    step = next(s for s in (0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300, 3600) if seconds / s <= 12 or s == 3600)
    for tick in range(int(seconds / step) + 1):
        at = x(tick * step)
        draw.line((at, height - 22, at, height - 17), fill=INK)
        draw.text((at - 6, height - 15), f"{tick * step:g}", fill=INK)
    return torch.from_numpy(np.array(image)).float() / 255
