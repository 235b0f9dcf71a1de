"""Placement of guides: which frames are used, and where they lie on the latent grid."""

from __future__ import annotations

import pytest
import torch

from ltx2_core.conditioning.guide_frames import GuideFrames, dilate
from ltx2_core.conditioning.guides import place_guide
from ltx2_core.conditioning.patchify import reference_positions
from ltx2_core.conditioning.state import empty_state
from ltx2_core.shapes import plan_clip

LATENTS = 16


@pytest.mark.parametrize(
    ("images", "at_start", "later"),
    [
        (1, (1, 1), (1, 1)),
        (2, (1, 1), (1, 1)),
        (8, (1, 1), (1, 1)),
        (9, (2, 9), (1, 8)),
        (16, (2, 9), (2, 16)),
        (17, (3, 17), (2, 16)),
        (25, (4, 25), (3, 24)),
        (121, (16, 121), (15, 120)),
    ],
)
def test_which_frames_are_used(images, at_start, later):
    start, mid = place_guide(images, 0, LATENTS), place_guide(images, 1, LATENTS)
    assert (start.latent_frames, start.used) == at_start
    assert (mid.latent_frames, mid.used) == later
    for placed in (start, mid):
        encoded_frames = placed.frames_to_encode(torch.arange(images, dtype=torch.float32))
        assert len(encoded_frames) % 8 == 1
        result = placed.latent(torch.zeros(1, 128, (len(encoded_frames) - 1) // 8 + 1, 2, 2))
        assert result.shape[2] == placed.latent_frames
        if placed.lead:
            assert encoded_frames[0] == encoded_frames[1] == 0


@pytest.mark.parametrize(
    ("frame", "lands"), [(0, 0), (1, 1), (8, 1), (9, 9), (16, 9), (17, 17), (96, 89), (97, 97)]
)
def test_a_clip_begins_at_the_grid(frame, lands):
    assert place_guide(16, frame, LATENTS).frame == lands
    assert place_guide(1, frame, LATENTS).frame == frame


def test_negative_frames_count_from_the_end():
    assert place_guide(1, -1, LATENTS).frame == 120
    assert place_guide(1, -121, LATENTS).frame == 0
    with pytest.raises(ValueError, match="frame -122 lies before the clip, which has 121 frames"):
        place_guide(1, -122, LATENTS)
    assert place_guide(16, -16, LATENTS).frame == 105


def test_a_guide_past_the_end_is_refused():
    with pytest.raises(ValueError, match="frames 0 to 120: use fewer frames"):
        place_guide(16, 113, LATENTS)
    with pytest.raises(ValueError, match="at least one"):
        place_guide(0, 0, LATENTS)


def test_a_small_reference_is_spread_over_the_grid_and_its_cells_reach_as_far():
    plan = plan_clip(128, 64, frames=9, fps=8)
    small = torch.randn(1, 128, 2, 1, 2)
    state = GuideFrames(latent=small, frame=0, scale=2, strength=1.5).apply(empty_state(plan))
    (guide,) = state.guides
    assert guide.valid.sum() == small[0, 0].numel()
    assert len(guide.valid) == 2 * 2 * 4
    selected = guide.positions[0, 1:, guide.valid]
    assert selected[:, :2].tolist() == [
        [[0, 64], [0, 64]],
        [[0, 64], [64, 128]],
    ] or (selected[1, :2].tolist() == [[0, 64], [64, 128]])
    assert (state.mask.video[:, :, 2:] == 0).all()
    tokens = state.latent.video[0, :, 2:].flatten(1)[:, guide.valid]
    assert torch.equal(tokens, small[0].flatten(1))
    assert dilate(small, 1)[1] is None
    with pytest.raises(ValueError, match="size of this stage"):
        GuideFrames(latent=torch.randn(1, 128, 2, 1, 1), frame=0, scale=3).apply(empty_state(plan))


def test_attention_may_be_set_for_every_cell():
    plan = plan_clip(128, 64, frames=9, fps=8)
    cells = torch.rand(2, 1, 2)
    state = GuideFrames(latent=torch.randn(1, 128, 2, 1, 2), frame=0, scale=2, attention=cells).apply(
        empty_state(plan)
    )
    (guide,) = state.guides
    assert torch.equal(guide.attention[guide.valid], cells.flatten())
    with pytest.raises(ValueError, match=r"must be \(K, H, W\)"):
        GuideFrames(latent=torch.randn(1, 128, 2, 2, 4), frame=0, attention=cells).apply(empty_state(plan))


@pytest.mark.parametrize(("space", "time"), [(1, 1), (2, 1), (1, 2), (2, 3)])
def test_a_reference_at_a_lower_rate_and_size_lies_where_the_official_one_does(space, time):
    frames, height, width = 3, 2, 4
    item = GuideFrames(
        latent=torch.zeros(1, 128, frames, height, width), frame=0, scale=space, time_scale=time
    )
    ours = item.positions(frames, height * space, width * space, 25.0)
    cells = dilate(item.latent, space)[1]
    selected = ours if cells is None else ours[:, :, cells.flatten()]
    expected = reference_positions(frames, height, width, 25.0, time_scale=time, space_scale=space)
    torch.testing.assert_close(selected, expected)
    seconds = (1 + (frames - 1) * 8) * time / 25.0 - (time - 1) / 25.0
    assert selected[:, 0].max() == pytest.approx(seconds)


def test_a_reference_at_a_lower_rate_begins_with_the_clip():
    item = GuideFrames(latent=torch.zeros(1, 128, 1, 2, 2), frame=9, time_scale=2)
    with pytest.raises(ValueError, match=r"every 2\. frame begins with the clip, at frame 0; got frame 9"):
        item.positions(1, 2, 2, 25.0)
