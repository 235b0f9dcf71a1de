"""Canny edges: one pixel wide, at steps of brightness, and continued down to the lower threshold."""

from __future__ import annotations

import pytest
import torch

from ltx2_core.media.edges import canny


def test_a_step_gives_one_line_where_it_is():
    frames = torch.zeros(2, 3, 32, 40)
    frames[0, :, :, 20:] = 1
    frames[1, :, 10:] = 1
    edges = canny(frames)
    assert edges.shape == (2, 32, 40)
    assert {*edges.unique().tolist()} == {0.0, 1.0}
    assert edges[0].sum(dim=1).eq(1).all()
    assert edges[1].sum(dim=0).eq(1).all()
    assert edges[0].argmax(dim=1).unique().item() in (19, 20)
    assert edges[1].argmax(dim=0).unique().item() in (
        9,
        10,
    )


def test_an_edge_that_fades_is_followed_and_a_weak_one_alone_is_not():
    frames = torch.zeros(1, 3, 64, 64)
    frames[:, :, :, 20:40] = torch.linspace(0.35, 1, 64)[:, None]
    high, low = canny(frames, 0.3, 0.3), canny(frames, 0.1, 0.3)
    column = (18, 22)
    assert 0 < high[0, :, column[0] : column[1]].sum() < 60
    assert low[0, 1:-1, column[0] : column[1]].sum(dim=1).ge(1).all()
    weak = torch.zeros(1, 3, 64, 64)
    weak[:, :, :, 20:] = 0.35
    assert not canny(weak, 0.1, 0.3).any()
    assert canny(weak, 0.1, 0.15).any()


def test_a_plain_image_has_none_and_a_clip_is_processed_frame_by_frame():
    assert not canny(torch.full((1, 3, 20, 20), 0.7)).any()
    frames = torch.rand(20, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    assert torch.equal(canny(frames), torch.cat([canny(frame[None]) for frame in frames]))


@pytest.mark.parametrize(("low", "high"), [(0.4, 0.3), (0.0, 0.3), (0.1, 1.5)])
def test_thresholds_that_cannot_be_are_refused(low, high):
    with pytest.raises(ValueError, match="low="):
        canny(torch.zeros(1, 3, 8, 8), low, high)
