"""A bar chart of memory plans: one bar for every stage of a run, and the budget as a line."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from .plan import GB, MemoryPlan

WIDTH, ROW, MARGIN, LEFT = 720, 22, 14, 96
BACK, INK, LIMIT = (24, 24, 27), (228, 228, 231), (239, 68, 68)
PARTS = {
    "weights": (59, 130, 246),
    "working": (34, 160, 107),
    "decoder state": (234, 179, 8),
    "in system memory": (82, 82, 91),
}


def draw_plans(plans: Sequence[MemoryPlan]) -> Tensor:
    """Draw a group of bars for each plan, one bar for every stage, over an axis in GB.

    The parts of a bar are weights, working memory, decoder state and system memory. A red line marks the
    plan's budget, unless that is more than about twice the longest bar. Returns an image (H, W, 3) in [0, 1].
    """
    rows = sum(len(plan.stages) + 1 for plan in plans)
    image = Image.new("RGB", (WIDTH, 2 * MARGIN + rows * ROW + 2 * ROW), BACK)
    draw = ImageDraw.Draw(image)
    longest = max(max(stage.total + stage.host for stage in plan.stages) for plan in plans)
    # A budget far above the need would squeeze the bars, and is then not drawn.
    most = max(longest, *(min(plan.budget, 2 * longest) for plan in plans)) * 1.05

    def x(size: float) -> float:
        return LEFT + (WIDTH - LEFT - MARGIN) * size / most

    top = MARGIN
    for plan in plans:
        state = "fits" if plan.fits else "does not fit"
        resident = f"{plan.resident_blocks} of {plan.blocks} blocks resident"
        draw.text((MARGIN, top + 4), f"{plan.budget / GB:.3g} GB: {state}, {resident}", fill=INK)
        first = top = top + ROW
        for stage in plan.stages:
            draw.text((MARGIN, top + 4), stage.stage, fill=INK)
            at = 0
            sizes = (stage.weights, stage.activations - stage.state, stage.state, stage.host)
            for size, colour in zip(sizes, PARTS.values(), strict=True):
                if size:
                    draw.rectangle((x(at), top + 3, max(x(at) + 1, x(at + size)), top + ROW - 4), fill=colour)
                at += size
            draw.text((min(x(at) + 4, WIDTH - 56), top + 4), f"{stage.total / GB:.2f} GB", fill=INK)
            top += ROW
        if plan.budget <= most:
            draw.line((x(plan.budget), first, x(plan.budget), top - 1), fill=LIMIT, width=2)
    at = MARGIN
    for name, colour in PARTS.items():
        draw.rectangle((at, top + 12, at + 10, top + 22), fill=colour)
        draw.text((at + 15, top + 11), name, fill=INK)
        at += 40 + 7 * len(name)
    return torch.from_numpy(np.array(image)).float() / 255
