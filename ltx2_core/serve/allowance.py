"""How much work a job of a model may be: what its memory plan allows, or what the server was told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..run.pipeline import LTX2Pipeline
from ..run.request import Request
from ..shapes import TEMPORAL_SCALE, ClipPlan

MOST_STEPS: Final = 150
"""The most sampling steps that ``POST /v1/inference`` takes."""
UNPLANNED: Final = 5e10
"""The work that is allowed on a device whose memory is not known."""
_SIZES: Final = ((1920, 1088), (960, 544), (512, 288), (256, 160), (64, 64))
"""Sizes of which each is made as long as fits: the memory of the decoder depends on the size alone."""
_MOST_LATENT_FRAMES: Final = 2048
_FPS: Final = 24.0


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """The largest ``work`` of a job: width x height x frames x steps, in pixels.

    ``largest`` is the clip from which it follows, the largest one whose memory plan fits; None if it follows
    from none.
    """

    work: float
    largest: ClipPlan | None = None

    def refusal(self, work: float) -> str | None:
        """Why a job of this much work is refused; None if it is not."""
        if work <= self.work:
            return None
        whence = ""
        if (clip := self.largest) is not None:
            whence = (
                f", {MOST_STEPS} steps of {clip.frames} frames of {clip.width}x{clip.height}, the most "
                "that fit its memory"
            )
        return (
            f"width x height x frames x steps are {work:.3g} in all, and this server allows "
            f"{self.work:.3g}{whence}: request fewer"
        )


def allowance_of(pipeline: LTX2Pipeline) -> Allowance:
    """What the memory plan of a model allows, in ``max_memory`` of its networks; only headers are read."""
    budget = pipeline.networks.max_memory
    if budget is None:
        return Allowance(work=UNPLANNED)
    longest = [clip for size in _SIZES if (clip := _longest(pipeline, *size, budget)) is not None]
    if not longest:
        # Each request is refused by its own plan, which says how much memory it needs.
        return Allowance(work=UNPLANNED)
    largest = max(longest, key=_pixels)
    return Allowance(work=float(_pixels(largest) * MOST_STEPS), largest=largest)


def _pixels(clip: ClipPlan) -> int:
    """The pixels of all frames of a clip."""
    return clip.width * clip.height * clip.frames


def _longest(pipeline: LTX2Pipeline, width: int, height: int, budget: int) -> ClipPlan | None:
    """The longest clip of this size in pixels whose plan fits ``budget`` bytes; None if not even two latent
    frames fit."""

    def planned(latent_frames: int) -> ClipPlan | None:
        frames = TEMPORAL_SCALE * (latent_frames - 1) + 1
        request = Request(prompt="", width=width, height=height, num_frames=frames, fps=_FPS, snap="ceil")
        stages = pipeline.stages(request)
        return stages[-1].finished if pipeline.plan(stages, budget, propose=False).fits else None

    found = planned(2)
    if found is None:
        return None
    fits, too_long = 2, _MOST_LATENT_FRAMES + 1
    while too_long - fits > max(1, fits // 64):
        middle = (fits + too_long) // 2
        clip = planned(middle)
        if clip is None:
            too_long = middle
        else:
            fits, found = middle, clip
    return found
