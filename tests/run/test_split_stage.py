"""The second stage of an HDR clip in tiles: what they cover, how they blend, and what they are given."""

from __future__ import annotations

import pytest
import torch

from ltx2_core import Request
from ltx2_core.conditioning.guide_frames import GuideFrames
from ltx2_core.run.split_stage import joined, sample_split, split_cells
from ltx2_core.run.stage_spans import spans
from ltx2_core.run.stages import plan_stages


def stage(width=640, height=384, frames=161, tiles=2):
    request = Request(
        prompt="x",
        width=width,
        height=height,
        num_frames=frames,
        fps=24,
        stages=2,
        distilled=True,
        stage2_tiles=tiles,
    )
    return plan_stages(request)[1]


@pytest.mark.parametrize(
    ("length", "tiles", "overlap", "expected"),
    [
        # The released case: 161 frames are 21 latent frames, and 1088 rows are 34.
        (21, 2, 8, ((0, 14), (6, 21))),
        (34, 2, 6, ((0, 20), (14, 34))),
        (60, 2, 6, ((0, 33), (27, 60))),
        # Short axes have a smaller overlap, or one tile.
        (4, 2, 6, ((0, 3), (1, 4))),
        (2, 2, 6, ((0, 1), (1, 2))),
        (1, 2, 6, ((0, 1),)),
        (9, 1, 6, ((0, 9),)),
        (20, 3, 2, ((0, 8), (6, 14), (12, 20))),
    ],
)
def test_an_axis_is_covered_by_equal_tiles_that_overlap(length, tiles, overlap, expected):
    assert spans(length, tiles, overlap) == expected


@pytest.mark.parametrize("size", [(640, 384, 161), (1920, 1088, 49), (64, 64, 9), (128, 64, 1)])
@pytest.mark.parametrize("scale", [1, 2])
def test_tiles_that_change_nothing_give_the_clip_back(size, scale):
    whole = stage(*size)
    clip = whole.clip
    latent = torch.randn(1, 4, clip.latent_frames, clip.latent_height, clip.latent_width)
    cells = split_cells(whole, scale=scale)
    assert len(cells) <= 8
    for cell in cells:
        assert not any(edge % scale for span in (cell.rows, cell.columns) for edge in span)
    torch.testing.assert_close(joined([cell.of(latent) for cell in cells], cells, latent.shape), latent)


def test_each_tile_is_a_clip_of_its_own_with_its_part_of_the_reference():
    whole = stage()
    latent = torch.randn(1, 4, 21, 12, 20)
    reference = GuideFrames(latent=torch.randn(1, 4, 21, 6, 10), frame=0, scale=2)
    seen = []

    def sample(tile, part, items):
        seen.append(tile)
        assert part.shape[2:] == (tile.clip.latent_frames, tile.clip.latent_height, tile.clip.latent_width)
        (guide,) = items
        assert guide.latent.shape[2:] == (part.shape[2], part.shape[3] // 2, part.shape[4] // 2)
        return part + len(seen)

    made = sample_split(whole, latent, [reference], sample)
    assert [tile.start_seed for tile in seen] == [*range(8)]
    assert all(tile.split == 1 and tile.clip.fps == whole.clip.fps for tile in seen)
    # The corner of the first tile is its own, and no blend leaves what the tiles made.
    difference = made - latent
    torch.testing.assert_close(difference[:, :, 0, 0, 0], torch.ones(1, 4))
    assert 0.999 < difference.min() <= difference.max() < 8.001


def test_the_memory_is_that_of_the_largest_tile():
    whole = stage(1920, 1088, 161)
    assert (whole.sampled.width, whole.sampled.height, whole.sampled.frames) == (33 * 32, 20 * 32, 15 * 8 - 7)
    assert stage(1920, 1088, 161, tiles=1).sampled.video_tokens > 3 * whole.sampled.video_tokens


@pytest.mark.parametrize(
    "guide", [{"frame": 8}, {"frame": 0, "single_frame": True}, {"frame": 0, "time_scale": 2}]
)
def test_keyframes_are_refused(guide):
    item = GuideFrames(latent=torch.randn(1, 4, 21, 12, 20), **guide)
    with pytest.raises(ValueError, match="takes references of the whole clip"):
        sample_split(stage(), torch.randn(1, 4, 21, 12, 20), [item], lambda *_: None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": 1}, "give stages=2"),
        ({"stages": 2, "image": "a.png"}, "takes no image and no audio"),
        ({"stages": 2, "images": [("a.png", 8)]}, "takes no image and no audio"),
        ({"stages": 2, "audio": "a.wav"}, "takes no image and no audio"),
        ({"pipeline_kind": "dfr"}, "give stages=2"),
        ({"stages": 2, "stage2_tiles": 0}, "from 1 to 8"),
        ({"stages": 2, "stage2_tiles": 9}, "from 1 to 8"),
        ({"stages": 2, "stage2_tiles": 1.5}, "from 1 to 8"),
    ],
)
def test_what_cannot_be_divided_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Request(prompt="x", **{"stage2_tiles": 2, **options})
