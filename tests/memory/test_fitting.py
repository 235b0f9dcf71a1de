"""Where a clip does not fit, the largest clip that does is proposed."""

from __future__ import annotations

import pytest
import torch

from ltx2_core.memory import PRESETS, plan_memory, plan_or_propose, released_size
from ltx2_core.shapes import plan_clip

GB = 10**9


def planned(budget, clips, generation="2.3"):
    size = released_size(generation, "bf16")
    return plan_or_propose(
        lambda tried: plan_memory(int(budget * GB), size, clips=tried, dtype=torch.bfloat16), clips
    )


@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize(
    ("width", "height", "seconds", "budget"),
    [(1920, 1088, 60, 6), (1088, 1920, 60, 6), (3840, 2176, 20, 8), (1280, 704, 120, 5)],
)
def test_the_proposal_fits_and_has_the_shape_of_the_clip(width, height, seconds, budget, stages):
    clip = plan_clip(width, height, seconds=seconds, fps=30, stages=stages)
    clips = [clip] if stages == 1 else [clip.half(), clip]
    found = planned(budget, clips)
    assert not found.fits
    smaller = found.fitting
    assert planned(budget, [smaller] if stages == 1 else [smaller.half(), smaller]).fits
    assert smaller.fps == clip.fps
    assert smaller.frames <= clip.frames
    assert smaller.width / smaller.height == pytest.approx(width / height, rel=0.12)
    assert f"make {smaller.frames} frames of {smaller.width}x{smaller.height}, which fit" in found.shortage


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_holds_the_largest_clip_or_proposes_one_that_it_holds(preset):
    budget = PRESETS[preset] / GB
    clip = plan_clip(3840, 2176, seconds=40, fps=24, stages=2)
    found = planned(budget, [clip.half(), clip])
    assert found.fits == (budget >= 48)
    if not found.fits:
        assert planned(budget, [found.fitting.half(), found.fitting]).fits


def test_a_smaller_size_comes_before_a_shorter_clip():
    clip = plan_clip(3840, 2176, seconds=5)
    smaller = planned(5, [clip]).fitting
    assert smaller.frames == clip.frames
    assert smaller.width < clip.width


@pytest.mark.parametrize(
    ("budget", "clips"),
    [
        pytest.param(24, lambda clip: [clip], id="it fits"),
        pytest.param(2, lambda clip: [clip], id="nothing fits"),
        pytest.param(6, lambda clip: [clip, clip], id="stages of another size than half"),
    ],
)
def test_else_there_is_no_proposal(budget, clips):
    clip = plan_clip(1920, 1088, seconds=5 if budget == 24 else 60)
    found = planned(budget, clips(clip))
    assert found.fitting is None
    assert found.fits == (budget == 24)
