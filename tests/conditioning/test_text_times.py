"""Which text a token attends to: by its time in seconds, never by its place among the tokens."""

from __future__ import annotations

import math

import pytest
import torch

from ltx2_core.conditioning.patchify import audio_positions, guide_positions, video_positions
from ltx2_core.conditioning.reference import reference_audio_positions
from ltx2_core.conditioning.text_times import LOWEST, narrow_windows, relayed_text, timed_texts
from ltx2_core.types import RelayedText

FPS, FRAMES = 24.0, 16
"""16 latent frames, 121 pixel frames, 5 s."""
WHOLE, ONE, TWO = (torch.full((1, 2, 3), float(number)) for number in range(3))


def assigned(positions, parts=((0.0, ONE), (2.5, TWO)), fade_s=0.0, whole=WHOLE):
    """For each token the values of its first and second text and the share of the second."""
    times = timed_texts(whole, parts, fade_s, positions)
    values = torch.tensor([float(context[0, 0, 0]) for context in times.contexts])
    return values[times.first], values[times.second], times.share


def starts(positions):
    return positions[0, 0, :, 0]


@pytest.mark.parametrize("guides", [0, 1, 16])
def test_guide_tokens_do_not_count_as_time(guides):
    """Each frame of the clip has its own part whatever is appended, and a guide has the part at its frame."""
    clip = video_positions(FRAMES, 1, 1, FPS)
    extra = [guide_positions(guides, 1, 1, FPS, frame=0)] if guides else []
    text, _, _ = assigned(torch.cat([clip, *extra], dim=2))
    expected = torch.where(starts(clip) < 2.5, 1.0, 2.0)
    assert torch.equal(text[:FRAMES], expected)
    assert torch.equal(text[FRAMES:], expected[:guides])


@pytest.mark.parametrize("positions", [video_positions(FRAMES, 2, 2, FPS), audio_positions(126)])
@pytest.mark.parametrize("fade_s", [0.0, 0.3, 2.0])
def test_every_token_sees_a_part_also_around_a_border_and_at_both_ends(positions, fade_s):
    first, second, share = assigned(positions, fade_s=fade_s)
    assert bool((first > 0).all())
    assert bool((second > 0).all())
    weight_of_two = torch.where(first == 2, 1.0, share)
    assert float(weight_of_two[starts(positions) <= 2.5 - fade_s / 2 - 0.001].sum()) == 0
    assert bool((weight_of_two[starts(positions) >= 2.5 + fade_s / 2] == 1).all())
    # It never falls with time.
    order = torch.argsort(starts(positions), stable=True)
    assert bool((weight_of_two[order].diff() >= 0).all())


def test_the_share_in_a_fade_is_linear_in_time():
    positions = audio_positions(126)
    first, _, share = assigned(positions, fade_s=1.0)
    inside = share > 0
    expected = starts(positions)[inside] - 2.0
    assert int(inside.sum()) >= 24
    torch.testing.assert_close(share[inside], expected)
    assert bool((first[inside] == 1).all())


def test_what_lies_before_the_clip_has_the_text_of_the_whole_clip():
    reference = reference_audio_positions(10)
    text, _, _ = assigned(torch.cat((reference, audio_positions(126)), dim=2))
    assert bool((text[:10] == 0).all())
    assert bool((text[10:] > 0).all())


def test_video_and_audio_change_at_the_same_second():
    video, audio = video_positions(FRAMES, 1, 1, FPS), audio_positions(126)
    last = [starts(p)[assigned(p)[0] == 1].max() for p in (video, audio)]
    following = [starts(p)[assigned(p)[0] == 2].min() for p in (video, audio)]
    assert max(last) < 2.5 <= min(following)


def test_a_time_of_a_frame_begins_at_that_frame():
    clip = video_positions(FRAMES, 1, 1, FPS)
    for frame in range(1, FRAMES):
        start = (8 * frame - 7) / FPS
        text, _, _ = assigned(clip, parts=((0.0, ONE), (start, TWO)))
        assert text.tolist() == [1.0] * frame + [2.0] * (FRAMES - frame)


def test_a_fade_is_no_longer_than_the_parts_at_its_sides():
    parts = ((0.0, ONE), (2.0, TWO), (2.2, ONE))
    first, second, share = assigned(audio_positions(126), parts=parts, fade_s=3.0)
    assert float(share.max()) < 1
    times = starts(audio_positions(126))
    assert bool((share[(times < 1.9) | (times > 2.3)] == 0).all())
    assert {(1.0, 2.0), (2.0, 1.0)} >= set(
        zip(first[share > 0].tolist(), second[share > 0].tolist(), strict=True)
    )


def test_parts_of_the_same_text_share_one_tensor():
    times = timed_texts(ONE, ((0.0, ONE), (1.0, TWO), (3.0, ONE)), 0.5, audio_positions(126))
    assert len(times.contexts) == 2


HALVES = ((0.0, 3, 5), (57 / FPS, 5, 9))
"""Two parts of 8 latent frames each, of text tokens 3 and 4, and 5 to 8."""
WDC = RelayedText(HALVES, seconds=121 / FPS)


def levels(relay, positions):
    """The bias of each token (N,) on either part."""
    bias = relayed_text(WHOLE, relay, positions, FPS).bias
    assert bias.parts == (slice(3, 5), slice(5, 9))
    return bias.levels.unbind(dim=1)


def free(relay, positions):
    """For either part the numbers of the tokens that attend to it almost plainly."""
    return [torch.nonzero(level > -1).flatten().tolist() for level in levels(relay, positions)]


@pytest.mark.parametrize("guides", [0, 1, 16])
@pytest.mark.parametrize(
    ("relay", "first", "second"),
    [
        (RelayedText(HALVES), range(8), range(8, 16)),
        (WDC, range(2, 7), range(10, 15)),
    ],
    ids=["whole parts", "those of WhatDreamsCost"],
)
def test_one_text_is_free_at_the_frames_of_its_parts_whatever_is_appended(relay, first, second, guides):
    clip = video_positions(FRAMES, 1, 1, FPS)
    extra = [guide_positions(guides, 1, 1, FPS, frame=0)] if guides else []
    found = free(relay, torch.cat([clip, *extra], dim=2))
    assert [[n for n in part if n < FRAMES] for part in found] == [list(first), list(second)]
    # A guide has the part at its own frame; a clip as guide has the frames of the clip.
    guided = [[n - FRAMES for n in part if n >= FRAMES] for part in found]
    assert guided == [[n for n in part if n < guides] for part in (first, second)]


@pytest.mark.parametrize("positions", [video_positions(FRAMES, 2, 2, FPS), audio_positions(126)])
def test_every_token_sees_a_part_of_one_text_also_around_a_border_and_at_both_ends(positions):
    one, two = levels(RelayedText(HALVES), positions)
    assert bool((torch.maximum(one, two) == 0).all())
    assert bool((torch.minimum(one, two) < 0).all())


def test_the_bias_is_the_formula_of_prompt_relay():
    one, two = levels(WDC, video_positions(FRAMES, 1, 1, FPS))
    sigma = 1 / math.log(1 / 1e-3)
    for frame in range(FRAMES):
        for level, middle in ((one, 4), (two, 12)):
            expected = -(max(abs(frame - middle) - 2, 0) ** 2) / (2 * sigma**2)
            assert float(level[frame]) == pytest.approx(expected, abs=0.01)


def test_what_lies_before_the_clip_attends_to_no_part_of_one_text():
    positions = torch.cat((reference_audio_positions(10), audio_positions(126)), dim=2)
    one, two = levels(RelayedText(HALVES), positions)
    assert bool((one[:10] == LOWEST).all())
    assert bool((two[:10] == LOWEST).all())


@pytest.mark.parametrize(
    ("borders", "frames", "windows"),
    [
        ((0.0, 2.5, 5.0), 16, [(2, 6), (10, 14)]),
        ((0.0, 1.0, 5.0), 16, [(1, 1), (5, 13)]),
        ((0.0, 0.01, 5.0), 16, [(0, 0), (3, 13)]),
        ((0.0, 1.0, 2.0, 3.0), 2, [(0, 0), (1, 1), (2, 2)]),
    ],
)
def test_parts_of_whole_latent_frames(borders, frames, windows):
    assert narrow_windows(borders, frames) == windows
