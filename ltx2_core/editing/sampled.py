"""What an edit samples, or what an earlier run had sampled for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..run.generation import Generation
from ..run.request import Request

if TYPE_CHECKING:
    from ..run.pipeline import Given, LTX2Pipeline, OnStep, Stop

OnSampled = Callable[[Generation], None]
"""Hears of what was sampled before any of it is decoded."""


def sampled_clip(
    pipeline: LTX2Pipeline,
    request: Request,
    given: Callable[[], Sequence[Given]],
    *,
    sampled: Generation | None,
    on_sampled: OnSampled | None,
    on_step: OnStep | None,
    stop: Stop | None,
) -> Generation:
    """The run of ``request`` with what ``given()`` encodes, or ``sampled`` in its place.

    Raises ValueError where that is of another size, length or rate.
    """
    if sampled is None:
        made = pipeline(request, given=given(), on_step=on_step, stop=stop)
        if on_sampled is not None:
            on_sampled(made)
        return made
    wanted, there = pipeline.stages(request)[-1].clip, sampled.clip
    sizes = [(clip.width, clip.height, clip.frames, clip.fps) for clip in (wanted, there)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            "what was sampled is {}x{}, {} frames at {:g} fps".format(*sizes[1])
            + ", and this edit makes {}x{}, {} frames at {:g} fps".format(*sizes[0])
            + ": give the source and the options that it was sampled with"
        )
    return sampled
