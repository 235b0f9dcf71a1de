"""Tiles of a frame: they cover it once, one tile is the whole, and a tile is that part of the clip."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from ltx2_core.conditioning.patchify import guide_positions, video_positions
from ltx2_core.transformer import GuideWeights
from ltx2_core.transformer.tiles import TileMemory, Tiles, evaluate_tiles, tile_spans, tile_weights


def test_shares_of_tiles_add_up_to_one_and_neighbours_share_what_is_asked():
    for length, count, overlap in ((10, 2, 2), (24, 3, 4), (17, 4, 1), (9, 1, 4)):
        spans = tile_spans(length, count, overlap)
        assert spans[0][0] == 0
        assert spans[-1][1] == length
        assert all(a[1] - b[0] >= overlap for a, b in pairwise(spans))
        weights = tile_weights(length, spans)
        torch.testing.assert_close(weights.sum(0), torch.ones(length))
        assert all(
            bool((w[: s[0]] == 0).all() and (w[s[1] :] == 0).all())
            for w, s in zip(weights, spans, strict=True)
        )


@pytest.mark.parametrize(("length", "count", "overlap"), [(4, 2, 4), (3, 3, 2), (2, 3, 1)])
def test_tiles_that_do_not_fit_are_refused(length, count, overlap):
    with pytest.raises(ValueError, match="fewer tiles"):
        tile_spans(length, count, overlap)


def test_one_tile_is_the_whole_frame(model, streams):
    video, audio = (make(model.config) for make in streams)
    expected = model(video, audio)
    found = evaluate_tiles(model, Tiles(columns=1, rows=1), video, audio)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_a_tile_is_evaluated_as_a_clip_of_its_own_and_ramps_join_two(model23, streams):
    make_video, make_audio = streams
    positions = video_positions(2, 1, 6, 24.0)
    tokens = torch.randn(2, 12, model23.config.in_channels)
    times = torch.rand(2, 12)
    video = make_video(model23.config, tokens=tokens, positions=positions, timesteps=times)
    audio = make_audio(model23.config)
    v, a = evaluate_tiles(model23, Tiles(columns=2, overlap=2), video, audio)
    parts = []
    for columns in (slice(0, 4), slice(2, 6)):
        own = tokens.view(2, 2, 6, -1)[:, :, columns].reshape(2, 8, -1)
        clip = replace(
            video,
            tokens=own,
            timesteps=times.view(2, 2, 6)[:, :, columns].reshape(2, 8),
            positions=video_positions(2, 1, 4, 24.0),
        )
        parts.append(model23(clip, audio))
    left, right = (part[0].view(2, 2, 4, -1) for part in parts)
    grid = v.view(2, 2, 6, -1)
    torch.testing.assert_close(grid[:, :, :2], left[:, :, :2])
    torch.testing.assert_close(grid[:, :, 4:], right[:, :, 2:])
    torch.testing.assert_close(grid[:, :, 2], left[:, :, 2] * 2 / 3 + right[:, :, 0] / 3)
    torch.testing.assert_close(a, (parts[0][1] + parts[1][1]) / 2)


@pytest.mark.parametrize("scale", [1, 2])
def test_a_guide_is_cut_as_the_video_is(model23, streams, scale):
    """A guide, spread over a finer grid or not, gives each tile the tokens that lie in it."""
    own, guide = video_positions(1, 4, 8, 24.0), guide_positions(1, 4, 8, 24.0, frame=0)
    kept = torch.zeros(4, 8, dtype=torch.bool)
    kept[::scale, ::scale] = True
    guide[:, 1:, :, 1] += (scale - 1) * 32
    guide = guide[:, :, kept.flatten()]
    count = guide.shape[2]
    seen = []

    def record(video, audio):
        seen.append(video)
        return video.tokens, None

    weights = torch.arange(count) + 1.0
    video = streams[0](
        model23.config,
        tokens=torch.randn(2, 32 + count, 6),
        positions=torch.cat((own, guide), dim=2),
        attention_mask=GuideWeights((weights,)),
    )
    v, _ = evaluate_tiles(record, Tiles(columns=2, rows=1, overlap=2), video, None)
    torch.testing.assert_close(v, video.tokens)
    left, right = (part.attention_mask.guides[0] for part in seen)
    grid = weights.view(4 // scale, 8 // scale)
    per = 5 // scale if scale == 1 else 2
    assert left.tolist() == grid[:, :per].flatten().tolist()
    assert set(left.tolist()) | set(right.tolist()) == set(weights.tolist())
    assert all(part.positions[0, 2].mean(-1).min() >= 0 for part in seen)


def test_tiles_are_found_again_by_the_positions_of_the_clip(model23, streams):
    memory, tiles = TileMemory(), Tiles(columns=2, overlap=2)
    video = streams[0](model23.config, tokens=torch.randn(2, 32, 6), positions=video_positions(1, 4, 8, 24.0))
    first = memory.tiles(video, tiles)
    assert memory.tiles(replace(video, positions=video.positions.clone()), tiles) is first
    assert memory.tiles(replace(video, positions=video_positions(1, 8, 4, 24.0)), tiles) is not first
