"""Conditioning items: what they preserve, what they refuse, and that they never change their input."""

from __future__ import annotations

import pytest
import torch

from ltx2_core.conditioning.guide_frames import GuideFrames
from ltx2_core.conditioning.items import ImageInPlace, InputAudio, InputVideo
from ltx2_core.conditioning.state import drop_guides, empty_state
from ltx2_core.shapes import plan_clip

PLAN = plan_clip(96, 64, frames=25, fps=25)
SEVENS = torch.full((1, 128, 2, 2, 3), 7.0)


def frozen_bits(state):
    return [t.clone() for t in (state.latent.video, state.latent.audio, state.mask.video, state.mask.audio)]


def test_an_empty_state_is_all_to_generate():
    state = empty_state(PLAN, 2)
    assert state.latent.video.shape == (2, 128, 4, 2, 3)
    assert state.latent.audio.shape == (2, 8, 25, 16)
    assert state.mask.video.shape == (2, 1, 4, 2, 3)
    assert state.mask.audio.shape == (2, 1, 25, 1)
    assert (state.mask.video == 1).all()
    assert empty_state(PLAN, audio=False).latent.audio is None


@pytest.mark.parametrize("strength", [0.0, 0.25, 1.0])
def test_an_image_in_place_takes_the_first_frames_and_leaves_the_other_masks(strength):
    state = empty_state(PLAN, 2)
    later = ImageInPlace(latent=torch.ones(1, 128, 4, 2, 3), strength=0.5).apply(state)
    after = ImageInPlace(latent=SEVENS, strength=strength).apply(later)
    assert (after.latent.video[:, :, :2] == 7).all()
    assert (after.latent.video[:, :, 2:] == 1).all()
    assert (after.mask.video[:, :, :2] == 1 - strength).all()
    assert (after.mask.video[:, :, 2:] == 0.5).all()
    assert after.latent.audio is state.latent.audio


@pytest.mark.parametrize(
    "item",
    [
        ImageInPlace(latent=SEVENS),
        InputVideo(latent=SEVENS.repeat(1, 1, 2, 1, 1)),
        InputAudio(latent=torch.ones(1, 8, 25, 16)),
        GuideFrames(latent=SEVENS, frame=9, strength=0.5),
    ],
)
def test_no_item_writes_to_the_state_or_to_its_own_latent(item):
    state = empty_state(PLAN)
    before, copy = frozen_bits(state), item.latent.clone()
    after = item.apply(state)
    assert all(torch.equal(a, b) for a, b in zip(before, frozen_bits(state), strict=True))
    after.latent.map(lambda x: x.clone().add_(1))
    assert torch.equal(item.latent, copy)
    assert not all(
        a.shape == b.shape and torch.equal(a, b) for a, b in zip(before, frozen_bits(after), strict=True)
    )


def test_input_audio_freezes_the_audio_and_nothing_else():
    state = InputAudio(latent=torch.ones(1, 8, 25, 16)).apply(empty_state(PLAN, 2))
    assert (state.latent.audio == 1).all()
    assert (state.mask.audio == 0).all()
    assert (state.mask.video == 1).all()


def test_input_video_freezes_every_frame():
    state = InputVideo(latent=torch.ones(1, 128, 4, 2, 3)).apply(empty_state(PLAN))
    assert (state.mask.video == 0).all()
    assert (state.mask.audio == 1).all()


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (ImageInPlace(latent=torch.ones(1, 128, 1, 4, 6)), "size of this stage"),
        (ImageInPlace(latent=torch.ones(1, 64, 1, 2, 3)), "64 channels"),
        (ImageInPlace(latent=torch.ones(1, 128, 5, 2, 3)), "has 5 latent frames and the clip 4"),
        (ImageInPlace(latent=torch.ones(3, 128, 1, 2, 3)), "use one sample or 2"),
        (ImageInPlace(latent=SEVENS, strength=1.5), "strength=1.5"),
        (ImageInPlace(latent=SEVENS, strength=float("nan")), "strength=nan"),
        (InputVideo(latent=SEVENS), "plan the clip to its length"),
        (InputAudio(latent=torch.ones(1, 8, 24, 16)), "pad it with silence"),
        (GuideFrames(latent=torch.ones(1, 128, 1, 4, 6), frame=0), "size of this stage"),
        (GuideFrames(latent=SEVENS, frame=0, strength=-1.0), "strength=-1.0"),
        (GuideFrames(latent=SEVENS, frame=0, attention=float("nan")), "attention=nan"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_to_do(item, message):
    with pytest.raises(ValueError, match=message):
        item.apply(empty_state(PLAN, 2))


def test_items_for_an_absent_stream_are_refused():
    with pytest.raises(ValueError, match="no video"):
        ImageInPlace(latent=SEVENS).apply(empty_state(PLAN, video=False))
    with pytest.raises(ValueError, match="this state has no audio"):
        InputAudio(latent=torch.ones(1, 8, 25, 16)).apply(empty_state(PLAN, audio=False))


def test_guides_go_to_the_end_in_order_and_come_off_again():
    state = empty_state(PLAN)
    one = GuideFrames(latent=SEVENS, frame=9, strength=0.75).apply(state)
    two = GuideFrames(latent=SEVENS[:, :, :1] + 1, frame=0, strength=2.0, attention=0.5).apply(one)
    assert two.latent.video.shape[2] == 4 + 2 + 1
    assert two.guide_frames == 3
    assert [g.attention for g in two.guides] == [1.0, 0.5]
    assert two.mask.video[0, 0, :, 0, 0].tolist() == [1, 1, 1, 1, 0.25, 0.25, 0]
    assert torch.equal(drop_guides(two.latent, two).video, state.latent.video)
    late = ImageInPlace(latent=SEVENS).apply(two)
    assert torch.equal(late.mask.video[:, :, 4:], two.mask.video[:, :, 4:])
