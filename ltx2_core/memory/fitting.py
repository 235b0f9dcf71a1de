"""Finds the largest clip that fits where the one that was asked for does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Final

from ..shapes import SPATIAL_SCALE, ClipPlan, plan_clip, size_like
from .plan import MemoryPlan

_SHARES: Final = (1.0, 0.75, 0.5, 0.35, 0.25)
"""Shares of the pixels that are tried in turn, before the clip becomes shorter."""
SHORTEST_S: Final = 1.0
"""Seconds below which no clip is proposed."""


def plan_or_propose(
    plan: Callable[[Sequence[ClipPlan]], MemoryPlan], clips: Sequence[ClipPlan]
) -> MemoryPlan:
    """Plan the memory of ``clips``, one for each sampling stage; one that does not fit gets a proposal.

    ``plan`` plans the memory of such clips. The proposal, ``fitting`` of the result, has the proportions and
    the frame rate of the last clip: as long as it with down to a quarter of the pixels, else half as long,
    and so on down to a second. There is none if nothing of this fits, or for stages of another size than
    half.
    """
    found = plan(clips)
    whole = clips[-1]
    halved = len(clips) == 2 and (2 * clips[0].width, 2 * clips[0].height) == (whole.width, whole.height)
    if found.fits or not (len(clips) == 1 or halved):
        return found
    for smaller in _smaller(whole, stages=len(clips)):
        if plan([smaller.half(), smaller] if halved else [smaller]).fits:
            return replace(found, fitting=smaller)
    return found


def _smaller(clip: ClipPlan, *, stages: int) -> Iterator[ClipPlan]:
    """Yield smaller and then shorter clips than ``clip``, for a run of ``stages`` stages."""
    pixels = clip.width * clip.height
    for seconds, share in product(shorter(clip.seconds), _SHARES):
        width, height = size_like(clip.width, clip.height, share * pixels, SPATIAL_SCALE * stages)
        smaller = plan_clip(width, height, seconds=seconds, fps=clip.fps, stages=stages)
        if smaller.video_tokens < clip.video_tokens:
            yield smaller


def shorter(seconds: float) -> Iterator[float]:
    """Yield ``seconds``, and then halves of it, down to the shortest length that is proposed."""
    yield seconds
    while seconds > SHORTEST_S:
        seconds = max(seconds / 2, SHORTEST_S)
        yield seconds
