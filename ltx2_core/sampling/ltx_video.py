"""The guidance by step with which the 13B of LTX-Video was published."""

from __future__ import annotations

from collections.abc import Sequence

from .guidance import Guidance, GuidanceSchedule, StreamGuidance

BLOCKS = 48
"""Blocks of the network that the numbers of blocks below belong to."""

_TIMESTEPS = (1.0, 0.996, 0.9933, 0.9850, 0.9767, 0.9008, 0.6180)
_CFG = (1, 1, 6, 8, 6, 1, 1)
_STG = (0, 0, 4, 4, 4, 2, 1)
_RESCALE = (1, 1, 0.5, 0.5, 1, 1, 1)
_STG_BLOCKS = ((), (11, 25, 35, 39), (22, 35, 39), (28,), (28,), (28,), (28,))


def from_lists(
    timesteps: Sequence[float],
    *,
    cfg: Sequence[float],
    stg: Sequence[float],
    rescale: Sequence[float],
    stg_blocks: Sequence[Sequence[int]],
    cfg_star: bool = False,
) -> GuidanceSchedule:
    """Guidance from the lists of a configuration of LTX-Video, with one entry for each of ``timesteps``.

    They fall; a step takes the first that is not above its sigma, and the last one if all are. A ``rescale``
    of 1 means off there.
    """
    entries = []
    # Entry i holds below timestep i - 1: just below it, as the bound of a schedule is its highest sigma.
    highest = (1.0, *(timestep - _JUST_BELOW for timestep in timesteps[:-1]))
    for number, bound in enumerate(highest):
        blocks = tuple(stg_blocks[number])
        video = StreamGuidance(
            cfg=cfg[number],
            # Without a block there is nothing that the perturbed pass would leave out.
            stg=stg[number] if blocks else 0.0,
            rescale=0.0 if rescale[number] == 1 or not stg[number] else rescale[number],
            cfg_star=cfg_star,
        )
        entries.append((bound, Guidance(video=video, audio=video, stg_blocks=blocks)))
    return GuidanceSchedule(tuple(entries))


_JUST_BELOW = 4e-6
"""More than the tolerance of looking a schedule up, and less than steps of real schedules differ."""


def guidance_13b(layers: int = BLOCKS) -> GuidanceSchedule:
    """The guidance of the official first pass of 13B dev, for a network of ``layers`` blocks."""
    return from_lists(
        _TIMESTEPS,
        cfg=_CFG,
        stg=_STG,
        rescale=_RESCALE,
        stg_blocks=[sorted({block * layers // BLOCKS for block in blocks}) for blocks in _STG_BLOCKS],
        cfg_star=True,
    )
