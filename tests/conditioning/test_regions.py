"""Seconds to latents: examples of the references, several regions, longer clips, report and timeline."""

from __future__ import annotations

import pytest
import torch

from ltx2_core.conditioning.masks import mask_like
from ltx2_core.conditioning.regions import (
    Rounding,
    TimeRegions,
    audio_cells,
    covered,
    extended,
    parse_regions,
    spatial_cells,
    video_cells,
)
from ltx2_core.conditioning.state import empty_state
from ltx2_core.conditioning.timeline import PRESERVED, REGENERATED, draw_timeline
from ltx2_core.shapes import plan_clip
from ltx2_core.types import AVLatent


def taken(cells: torch.Tensor) -> list[int]:
    return cells.nonzero().flatten().tolist()


@pytest.mark.parametrize(
    ("region", "fps", "latents", "rounding", "first", "stop"),
    [
        ((2, 4), 25, 16, Rounding.INSIDE, 8, 13),
        ((2, 4), 24, 16, Rounding.INSIDE, 7, 12),
        ((0, 5), 24, 16, Rounding.INSIDE, 0, 15),
        ((4, 8), 24, 16, Rounding.INSIDE, 13, 16),
        ((4, 8), 24, 24, Rounding.INSIDE, 13, 24),
        ((2, 4), 25, 16, Rounding.COVER, 7, 14),
        ((0.04, 0.36), 25, 16, Rounding.COVER, 1, 2),
        ((0.04, 0.36), 25, 16, Rounding.TOUCH, 0, 3),
        ((3, 3), 25, 16, Rounding.TOUCH, 0, 0),
    ],
)
def test_seconds_become_the_latent_frames_of_the_references(region, fps, latents, rounding, first, stop):
    assert taken(video_cells([region], latents, fps, rounding)) == list(range(first, stop))


def test_audio_regions_round_as_the_references_do():
    assert taken(audio_cells([(4, 8)], 201, Rounding.INSIDE)) == list(range(100, 201))
    assert taken(audio_cells([(2, 2)], 127, Rounding.INSIDE)) == []
    cover, touch = (taken(audio_cells([(1.01, 2.01)], 127, r)) for r in (Rounding.COVER, Rounding.TOUCH))
    # Latent j lies from 40 j - 30 ms to 40 j + 10 ms.
    assert (cover[0], cover[-1]) == (26, 50)
    assert (touch[0], touch[-1]) == (25, 51)


def test_regions_are_regenerated_and_the_rest_is_preserved_unless_it_was_open():
    state = empty_state(plan_clip(64, 64, frames=121, fps=25))
    after = TimeRegions(video=((0, 0.5), (2, 4)), rounding=Rounding.INSIDE).apply(state)
    assert taken(after.mask.video[0, 0, :, 0, 0]) == [0, 1, *range(8, 13)]
    assert not after.mask.audio.any()
    assert state.mask.audio.all()
    more = TimeRegions(audio=((1, 2),), add=True).apply(after)
    assert torch.equal(more.mask.video, after.mask.video)
    assert more.mask.audio.any()


def test_text_names_regions():
    assert parse_regions(" 2-4, 5.5 to 6\n.5-1") == ((2, 4), (5.5, 6), (0.5, 1))
    assert parse_regions("") == ()
    for wrong in ("4-2", "2", "a-b", "-1-2"):
        with pytest.raises(ValueError, match="region"):
            parse_regions(wrong)


def test_a_clip_is_extended_with_frames_to_make():
    latent = AVLatent(torch.ones(1, 128, 3, 2, 2), torch.ones(1, 8, 10, 16))
    longer, mask = extended(latent, mask_like(latent, 0.0), 5, 8)
    assert longer.video.shape == (1, 128, 5, 2, 2)
    assert longer.audio is not None
    assert mask.video[0, 0, :, 0, 0].tolist() == [0, 0, 0, 1, 1]
    assert longer.audio.shape[2] == 10
    assert not mask.audio.any()
    assert longer.video[:, :, 3:].abs().sum() == 0


def test_any_painted_pixel_opens_its_cell():
    mask = torch.zeros(17, 64, 96)
    mask[3, 40, 70] = 1
    cells = spatial_cells(mask, 3, 2, 3)
    assert cells.nonzero().tolist() == [[1, 1, 2]]
    assert spatial_cells(mask[3:4], 3, 2, 3).sum() == 3
    with pytest.raises(ValueError, match="use one mask, or one a frame"):
        spatial_cells(mask[:9], 3, 2, 3)


def test_the_report_and_the_timeline_have_the_real_times():
    state = TimeRegions(video=((2, 4),), rounding=Rounding.INSIDE).apply(
        empty_state(plan_clip(64, 64, frames=121, fps=25))
    )
    video, audio = covered(state.mask, state.fps)
    assert str(video).startswith("video: 2.28-3.88 s (latents 8 to 12)")
    assert str(audio) == "audio: preserved"
    image = (draw_timeline((video, audio)) * 255).round().int()
    assert image.ndim == 3
    assert image.shape[-1] == 3
    result = (image == torch.tensor(REGENERATED)).all(-1).any(0).nonzero().flatten()
    width = (640 - 12 - 64) / 4.84
    assert result[0].item() == pytest.approx(64 + 2.28 * width, abs=2)
    assert result[-1].item() == pytest.approx(64 + 3.88 * width, abs=2)
    assert (image == torch.tensor(PRESERVED)).all(-1).any()
