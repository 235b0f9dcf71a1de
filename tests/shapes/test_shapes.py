"""The latent grid and clip plans, over all sizes, lengths and frame rates."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltx2_core.shapes import (
    ClipPlan,
    Snap,
    audio_latents_of,
    frames_of,
    latent_frames_of,
    plan_clip,
)
from ltx2_core.types import Numerics

RATES = (1.0, 12.0, 23.976, 24000 / 1001, 24.0, 25.0, 29.97, 30000 / 1001, 30.0, 48.0, 50.0, 59.94, 60.0)
MOVING = (Snap.FLOOR, Snap.NEAREST, Snap.CEIL)


def replan(plan: ClipPlan, snap: Snap, **length: float) -> ClipPlan:
    return plan_clip(plan.width, plan.height, fps=plan.fps, snap=snap, numerics=plan.numerics, **length)


@pytest.mark.parametrize("snap", MOVING)
@pytest.mark.parametrize("stages", [1, 2])
def test_every_size_lands_on_the_grid_within_one_step_on_the_right_side(snap, stages):
    multiple = 32 * stages
    for size in range(1, 2200):
        plan = plan_clip(size, 64, frames=9, snap=snap, stages=stages)
        assert plan.width % multiple == 0
        assert plan.width > 0
        assert abs(plan.width - size) < multiple
        if snap is Snap.FLOOR and size >= multiple:
            assert plan.width <= size
        if snap is Snap.CEIL:
            assert plan.width >= size
        if snap is Snap.NEAREST and size >= multiple:
            assert abs(plan.width - size) <= multiple / 2


@pytest.mark.parametrize("snap", MOVING)
@pytest.mark.parametrize("fps", RATES)
def test_every_length_lands_on_8k_plus_1_within_one_step(snap, fps):
    for frames in range(1, 400):
        plan = plan_clip(64, 64, frames=frames, fps=fps, snap=snap)
        assert plan.frames % 8 == 1
        assert abs(plan.frames - frames) < 8
        assert frames_of(plan.latent_frames) == plan.frames


@pytest.mark.parametrize("fps", RATES)
@pytest.mark.parametrize("snap", list(Snap))
def test_planning_a_plan_again_changes_nothing_by_frames_or_by_seconds(fps, snap):
    for k in range(60):
        plan = plan_clip(64, 96, frames=8 * k + 1, fps=fps)
        assert replan(plan, snap, frames=plan.frames) == plan
        assert replan(plan, snap, seconds=plan.seconds) == plan
        assert plan.changes == ()


@given(
    width=st.integers(1, 5000),
    height=st.integers(1, 5000),
    seconds=st.floats(1e-3, 600),
    fps=st.floats(1, 240),
    snap=st.sampled_from(MOVING),
    stages=st.sampled_from([1, 2]),
    numerics=st.sampled_from(list(Numerics)),
)
def test_any_request_gives_a_consistent_plan_that_is_its_own_plan(
    width, height, seconds, fps, snap, stages, numerics
):
    plan = plan_clip(width, height, seconds=seconds, fps=fps, snap=snap, stages=stages, numerics=numerics)
    again = plan_clip(
        plan.width,
        plan.height,
        seconds=plan.seconds,
        fps=fps,
        snap=Snap.ERROR,
        stages=stages,
        numerics=numerics,
    )
    assert again.changes == ()
    assert again.frames == plan.frames
    assert bool(plan.changes) == (
        (plan.width, plan.height) != (width, height) or abs(plan.frames - seconds * fps) > 1e-6
    )
    assert abs(plan.audio_latents - plan.seconds * 25) < 1 or plan.audio_latents == 1
    assert math.prod(plan.video_shape(2)) == 2 * 128 * plan.video_tokens
    assert math.prod(plan.audio_shape(2)) == 2 * 128 * plan.audio_tokens
    if stages == 2:
        assert plan.half().video_tokens * 4 == plan.video_tokens
        assert plan.half().audio_latents == plan.audio_latents


@pytest.mark.parametrize("frames", range(1, 120))
def test_error_mode_accepts_what_is_on_the_grid_and_names_both_neighbours_of_what_is_not(frames):
    if frames % 8 == 1:
        assert plan_clip(64, 64, frames=frames, snap=Snap.ERROR).frames == frames
        return
    with pytest.raises(ValueError, match="8k \\+ 1") as error:
        plan_clip(64, 64, frames=frames, snap=Snap.ERROR)
    below, above = (int(n) for n in re.findall(r"(\d+) \(", str(error.value)))
    assert below < frames < above == below + 8
    assert plan_clip(64, 64, frames=below, snap=Snap.ERROR).frames == below
    assert plan_clip(64, 64, frames=above, snap=Snap.ERROR).frames == above


def test_error_mode_names_the_multiple_and_the_neighbours_of_a_size():
    with pytest.raises(ValueError, match="height=720 must be a multiple of 64: the nearest are 704 and 768"):
        plan_clip(1280, 720, frames=121, snap=Snap.ERROR, stages=2)


def test_five_seconds_give_121_frames_at_both_common_rates():
    assert plan_clip(64, 64, seconds=5, fps=24).frames == 121
    assert plan_clip(64, 64, seconds=5, fps=25).frames == 121
    assert plan_clip(64, 64, seconds=10, fps=24000 / 1001).frames == 241


def test_every_change_is_described_in_one_sentence():
    plan = plan_clip(1280, 720, seconds=5, fps=25, stages=2)
    assert plan.changes == (
        "height is 704 instead of 720: it must be a multiple of 64",
        "the clip has 121 frames (4.840 s) instead of seconds=5 (125 frames at 25 fps): "
        "it must be 8k + 1 frames",
    )


@pytest.mark.parametrize(
    ("frames", "fps", "official", "comfy"), [(121, 24, 126, 127), (121, 25, 121, 121), (241, 24, 251, 252)]
)
def test_audio_length_rounds_officially_and_rounds_up_in_comfy(frames, fps, official, comfy):
    assert audio_latents_of(frames, fps) == official
    assert audio_latents_of(frames, fps, Numerics.COMFY) == comfy


def test_audio_length_ties_go_to_the_even_number():
    assert audio_latents_of(1, 10) == 2
    assert audio_latents_of(3, 50) == 2
    assert audio_latents_of(1, 240) == 1


def test_frames_beyond_8k_plus_1_are_dropped_by_the_latent_grid():
    assert [latent_frames_of(n) for n in (1, 8, 9, 16, 17, 121)] == [1, 1, 2, 2, 3, 16]


@pytest.mark.parametrize(
    "request_",
    [
        {"width": 0},
        {"height": -32},
        {"width": 64.5},
        {"frames": 0},
        {"frames": None},
        {"seconds": 1.0},
        {"frames": None, "seconds": math.nan},
        {"frames": None, "seconds": math.inf},
        {"frames": None, "seconds": 0.0},
        {"fps": 0.0},
        {"fps": -24.0},
        {"fps": math.nan},
        {"stages": 3},
    ],
)
def test_impossible_requests_are_refused_with_the_name_of_the_value(request_):
    request = {"width": 64, "height": 64, "frames": 9, **request_}
    name = next(reversed(request_))
    with pytest.raises(ValueError, match=name):
        plan_clip(request.pop("width"), request.pop("height"), **request)


def test_a_size_that_cannot_be_halved_is_refused():
    with pytest.raises(ValueError, match="stages=2"):
        plan_clip(96, 64, frames=9).half()
