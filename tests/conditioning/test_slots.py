"""Generated keyframes in a state: their place, their mask, what they attend to, and what is refused."""

from __future__ import annotations

import pytest
import torch

from ltx2_core.conditioning.guide_frames import GuideFrames
from ltx2_core.conditioning.slots import (
    KeyframeSlots,
    generated_keyframes,
    keyframes_every,
    spread_keyframes,
)
from ltx2_core.conditioning.state import drop_guides, empty_state
from ltx2_core.sampling.inputs import guide_attention
from ltx2_core.shapes import plan_clip

PLAN = plan_clip(96, 64, frames=17, fps=24.0)


def guide(frame: int = 8, attention: float = 1.0) -> GuideFrames:
    return GuideFrames(latent=torch.ones(1, 128, 1, 2, 3), frame=frame, attention=attention, strength=0.5)


def test_keyframes_are_latent_frames_of_one_pixel_frame_each_that_are_generated():
    state = KeyframeSlots(frames=(5, 16)).apply(guide().apply(empty_state(PLAN)))
    video, mask = state.latent.video, state.mask.video
    assert video.shape[2] == mask.shape[2] == 3 + 1 + 2
    assert bool((mask[:, :, 4:] == 1).all())
    assert not video[:, :, 4:].any()
    seconds = state.guides[-1].positions[0, 0].view(2, 6, 2)
    torch.testing.assert_close(seconds[:, 0], torch.tensor([[5.0, 6.0], [16.0, 17.0]]) / 24)
    assert state.guides[-1].generated
    sampled = state.latent.map(lambda x: torch.randn_like(x))
    assert torch.equal(generated_keyframes(sampled, state), sampled.video[:, :, 4:])
    assert drop_guides(sampled, state).video.shape[2] == 3
    assert generated_keyframes(sampled, guide().apply(empty_state(PLAN))) is None


def test_initial_keyframes_are_what_sampling_starts_from():
    initial = torch.randn(1, 128, 2, 2, 3)
    state = KeyframeSlots(frames=(5, 16), initial=initial).apply(empty_state(PLAN))
    assert torch.equal(state.latent.video[:, :, 3:], initial)


@pytest.mark.parametrize("between", [0.0, 1.0], ids=["official", "comfy"])
def test_keyframes_attend_plainly_to_the_guides_before_them_and_not_to_those_after(between):
    state = guide(8, attention=0.5).apply(empty_state(PLAN))
    state = KeyframeSlots(frames=(5,)).apply(state)
    state = guide(16, attention=0.5).apply(state)
    weights = guide_attention(state.guides, between_guides=between)
    mask = weights.dense(6 * 6)[0]
    first, slots, last = (slice(6 * n, 6 * n + 6) for n in (3, 4, 5))
    own = slice(0, 18)
    for one, other, weight in (
        (own, first, 0.5),
        (own, slots, 1.0),
        (own, last, 0.5),
        (first, slots, 1.0),
        (first, last, between),
        (slots, last, between),
        (slots, slots, 1.0),
    ):
        assert bool((mask[one, other] == weight).all())
        assert bool((mask[other, one] == weight).all())


@pytest.mark.parametrize(
    ("frames", "message"),
    [((), "no keyframe is named"), ((8, 8), "must rise"), ((9, 3), "must rise"), ((17,), "frames 0 to 16")],
)
def test_frames_that_cannot_be_generated_are_refused(frames, message):
    with pytest.raises(ValueError, match=message):
        KeyframeSlots(frames=frames).apply(empty_state(PLAN))


def test_other_mistakes_are_named():
    with pytest.raises(ValueError, match="plan the clip with video"):
        KeyframeSlots(frames=(5,)).apply(empty_state(PLAN, video=False))
    with pytest.raises(ValueError, match=r"do not fit: 1 of them on this clip are \(1, 128, 1, 2, 3\)"):
        KeyframeSlots(frames=(5,), initial=torch.zeros(1, 128, 2, 2, 3)).apply(empty_state(PLAN))


@pytest.mark.parametrize(
    ("interval", "frames", "occupied", "expected"),
    [
        (24, 121, (), (24, 48, 72, 96, 120)),
        (24, 121, (0, 48, 120), (24, 72, 96)),
        (32, 121, (), (30, 60, 90, 120)),
        (24, 9, (), (8,)),
        (1, 9, (), tuple(range(1, 9))),
        (24, 9, (8,), ()),
        # Ties are rounded to even, as Python and numpy do.
        (2, 6, (), (2, 5)),
    ],
)
def test_keyframes_at_an_interval_end_with_the_clip_and_skip_what_is_there(
    interval, frames, occupied, expected
):
    assert keyframes_every(interval, frames, occupied) == expected


def test_a_number_of_keyframes_leaves_out_both_ends():
    assert spread_keyframes(4, 121) == (24, 48, 72, 96)


@pytest.mark.parametrize(("count", "frames", "number", "frame"), [(47, 393, 15, 123), (47, 809, 15, 253)])
def test_keyframes_between_two_frames_are_rounded_as_in_the_official_pipeline(count, frames, number, frame):
    # Exactly between two frames, 122.5 and 252.5; in float32, as the official pipeline has them, a bit above.
    assert spread_keyframes(count, frames)[number - 1] == frame
