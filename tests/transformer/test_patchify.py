"""Tokens and back, and where they lie."""

import pytest
import torch

from ltx2_core.conditioning.patchify import (
    audio_positions,
    guide_positions,
    patchify_audio,
    patchify_video,
    reference_positions,
    unpatchify_audio,
    unpatchify_video,
    video_positions,
)


def test_tokens_go_back_to_the_same_latent():
    video, audio = torch.randn(2, 5, 3, 2, 4), torch.randn(2, 8, 7, 16)
    assert torch.equal(unpatchify_video(patchify_video(video), 3, 2, 4), video)
    assert torch.equal(unpatchify_audio(patchify_audio(audio)), audio)


def test_video_tokens_run_along_columns_then_rows_then_frames():
    video = torch.arange(24.0).reshape(1, 1, 2, 3, 4)
    assert patchify_video(video).flatten().tolist() == list(range(24))


def test_audio_features_are_channel_major():
    audio = torch.arange(256.0).reshape(1, 8, 2, 16)
    assert patchify_audio(audio)[0, 1, 16 * 3 + 5] == audio[0, 3, 1, 5]


def test_left_over_guide_tokens_are_refused():
    with pytest.raises(ValueError, match="has 6 tokens; got 8"):
        unpatchify_video(torch.zeros(1, 8, 4), 1, 2, 3)


def test_positions_tile_the_clip_without_gaps():
    time, rows, columns = video_positions(4, 2, 3, 25.0)[0]
    starts, ends = time[::6].unbind(-1)
    assert starts[0] == 0
    assert torch.equal(starts[1:], ends[:-1])
    torch.testing.assert_close(ends * 25, torch.tensor([1.0, 9.0, 17.0, 25.0]))
    assert rows.max() == 64
    assert columns.max() == 96


def test_audio_positions_tile_time_at_25_a_second():
    starts, ends = audio_positions(6)[0, 0].unbind(-1)
    assert torch.equal(starts[1:], ends[:-1])
    torch.testing.assert_close(ends, torch.arange(6) * 0.04 + 0.01)
    assert torch.equal(audio_positions(2, shift=4), audio_positions(6)[:, :, 4:])


def test_a_guide_at_frame_zero_lies_where_the_clip_lies():
    assert torch.equal(guide_positions(3, 2, 2, 24.0, frame=0), video_positions(3, 2, 2, 24.0))


def test_an_image_guide_covers_one_frame_and_a_clip_eight_a_latent():
    image, clip = guide_positions(1, 1, 1, 1.0, frame=9), guide_positions(2, 1, 1, 1.0, frame=8)
    assert image[0, 0].tolist() == [[9, 10]]
    assert clip[0, 0].tolist() == [[8, 16], [16, 24]]
    assert guide_positions(1, 1, 1, 1.0, frame=9, single_frame=False)[0, 0].tolist() == [[9, 17]]


def test_a_small_reference_spreads_over_the_whole_frame():
    small = reference_positions(1, 2, 2, 24.0, space_scale=2)
    assert small[0, 1:].amax() == video_positions(1, 4, 4, 24.0)[0, 1:].amax()


def test_a_slow_reference_starts_with_the_clip():
    slow = reference_positions(3, 1, 1, 24.0, time_scale=4)
    assert slow[0, 0, 0, 0] == 0
    torch.testing.assert_close(slow[0, 0, -1, 1] * 24, torch.tensor(17.0 * 4 - 3))


def test_positions_can_be_made_for_a_batch():
    assert torch.equal(video_positions(2, 2, 2, 24.0, batch=3)[2:], video_positions(2, 2, 2, 24.0))
    assert audio_positions(3, batch=2).shape == (2, 1, 3, 2)


def test_a_rate_that_is_not_above_zero_is_refused():
    with pytest.raises(ValueError, match="fps must be above 0; got 0"):
        video_positions(1, 1, 1, 0)
