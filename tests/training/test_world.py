"""The world renders its truth at any size and rate, and measuring pixels and samples recovers it."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from ltx2_core.training.text import load_text
from ltx2_core.training.tiny.scales import gpu_scale
from ltx2_core.training.world import (
    COLOURS,
    KINDS,
    MOTIONS,
    OUTLINES,
    PITCH_HZ,
    Measured,
    agreement,
    caption,
    clip_from_seed,
    confusable,
    contact_onset_distance,
    edge_iou,
    edge_map,
    edge_sharpness,
    event_distance,
    event_f1,
    measure,
    plain_caption,
    render_audio,
    render_clip,
    render_frames,
    sample_scene,
    semitones,
    vocabulary,
)
from ltx2_core.training.world.clip import Truth, truth_of
from ltx2_core.training.world.motion import Still

SIZES = ((64, 64), (96, 64), (64, 96))
LENGTHS = (17, 25, 33)
CLIPS = 200


def wrong_parts(measured: Measured, truth: Truth, *, frames: int) -> list[str]:
    """Names of what was not recovered; events at the very ends of a clip cannot be measured."""
    wrong = [name for name, right in agreement(measured, truth)._asdict().items() if not right]
    true = truth.contacts_s
    last = (frames - 1) / 25
    if event_f1(measured.contacts_s, true, tolerance_s=0.04, seconds=last, margin_s=0.06) < 1:
        wrong.append("contacts")
    if event_f1(measured.onsets_s, true, tolerance_s=0.02, seconds=truth.seconds, margin_s=0.03) < 1:
        wrong.append("onsets")
    if truth.sound == "knock":
        assert measured.audio is not None
        if not semitones(measured.audio.pitch_hz, truth.pitch_hz) < 1:
            wrong.append("pitch")
    return wrong


def degraded(frames: torch.Tensor, seed: int) -> torch.Tensor:
    """Frames with blur, noise and blotches, like those of a small autoencoder at 24 to 25 dB."""
    noise = torch.Generator().manual_seed(seed)
    padded = F.pad(frames, (2, 2, 2, 2), mode="replicate")
    blurred = F.avg_pool2d(F.avg_pool2d(padded, 3, stride=1), 3, stride=1)
    blots = F.interpolate(0.06 * torch.randn(len(frames), 3, 4, 4, generator=noise), frames.shape[2:])
    return blurred + 0.08 * torch.randn(frames.shape, generator=noise) + blots


def test_measure_recovers_the_truth_of_generated_clips():
    wrong = Counter()
    clips_wrong = 0
    for seed in range(CLIPS):
        frames = LENGTHS[seed % 3]
        clip = clip_from_seed(seed, frames, *SIZES[seed // 3 % 3], 16000)
        found = wrong_parts(measure(clip.frames, clip.waveform, 16000), clip.truth, frames=frames)
        wrong.update(found)
        clips_wrong += bool(found)
    assert clips_wrong <= 0.01 * CLIPS, wrong


def test_measure_survives_blur_and_noise():
    wrong = Counter()
    for seed in range(5000, 5060):
        clip = clip_from_seed(seed, 25, 64, 64, 16000)
        frames = degraded(clip.frames, seed)
        psnr = 10 * math.log10(4 / float((frames - clip.frames).square().mean()))
        assert psnr < 26
        noise = 0.01 * torch.randn(clip.waveform.shape, generator=torch.Generator().manual_seed(seed))
        found = wrong_parts(measure(frames, clip.waveform + noise, 16000), clip.truth, frames=25)
        wrong.update(found)
    assert all(count <= 2 for count in wrong.values()), wrong


def test_measured_positions_and_sizes_are_the_true_ones():
    for seed, motion in itertools.product(range(3), MOTIONS):
        scene = sample_scene(seed, motion=motion, company=False)
        clip = render_clip(scene, 17, 96, 64, 16000)
        actor = measure(clip.frames, None).actor
        assert actor is not None
        assert (actor.centre - clip.truth.centres[0]).abs().max() < 0.01
        assert (actor.radius - clip.truth.radii[0]).abs().max() < 0.01


def test_a_body_has_the_shape_it_resembles_most_of_those_that_are_named() -> None:
    def post(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.maximum(x.abs() - 0.56, y.abs() - 1.4)

    frames = torch.full((9, 3, 128, 128), -0.85)
    frames[:, 0, 30:98, 50:77] = 0.85
    assert measure(frames, None).kinds[0] in KINDS
    assert measure(frames, None, outlines={**OUTLINES, "post": post}).kinds == ("post",)
    # A shape that is named takes nothing from those that the world has.
    for kind in KINDS:
        known = render_frames(sample_scene(3, kind=kind, company=False), 9, 128, 128)
        assert measure(known, None, outlines={**OUTLINES, "post": post}).kinds == (kind,)


def test_the_audio_of_each_motion_matches_the_video():
    audio = {}
    for motion in MOTIONS:
        clip = render_clip(sample_scene(7, motion=motion), 33, 64, 64, 24000)
        measured = measure(clip.frames, clip.waveform, 24000)
        audio[motion] = measured.audio
        size, loudness = clip.truth.radii[0], measured.audio.loudness
        if motion == "pulse":
            assert torch.corrcoef(torch.stack([size, loudness]))[0, 1] > 0.99
        if motion == "bounce":
            assert contact_onset_distance(measured) < 0.5
    assert audio["slide_right"].glide > 0.2 > -0.2 > audio["slide_left"].glide
    assert audio["slide_right"].pan[-1] > audio["slide_right"].pan[0] + 0.3
    assert audio["slide_left"].pan[-1] < audio["slide_left"].pan[0] - 0.3
    assert audio["still"].loudness.max() < 0.002


def test_a_knock_starts_at_its_contact_and_not_before():
    scene = sample_scene(3, motion="bounce")
    for rate in (16000, 44100, 48000):
        waveform = render_audio(scene, 1.0, rate)
        assert waveform.shape == (2, rate)
        assert waveform.abs().max() < 1
        start = math.ceil(scene.contacts(1.0)[0] * rate)
        assert waveform[:, :start].abs().max() < 0.005
        assert waveform[:, start : start + rate // 200].abs().max() > 0.2


def test_pitches_of_shapes_lie_at_least_four_semitones_apart():
    for a, b in itertools.combinations(KINDS, 2):
        assert semitones(PITCH_HZ[a], PITCH_HZ[b]) >= 4


def test_a_seed_determines_the_clip():
    first, same, other = (clip_from_seed(seed, 9, 64, 64, 16000) for seed in (11, 11, 12))
    assert torch.equal(first.frames, same.frames)
    assert torch.equal(first.waveform, same.waveform)
    assert first.caption == same.caption
    assert not torch.equal(first.frames, other.frames)


def test_size_and_length_do_not_change_the_scene():
    for seed in range(8):
        scene = sample_scene(seed)
        small, large = render_frames(scene, 17, 64, 64), render_frames(scene, 33, 192, 192)
        assert (F.avg_pool2d(large[:17], 3) - small).abs().mean() < 0.03
        slow, fast = render_audio(scene, 0.5, 16000), render_audio(scene, 1.0, 48000)
        assert (fast[:, : 3 * 8000 : 3] - slow).abs().max() < 0.02


def test_bodies_stay_inside_the_frame_and_never_overlap():
    for seed, motion in itertools.product(range(5), MOTIONS):
        scene = sample_scene(seed, motion=motion, company=True)
        for width, height in ((64, 64), (192, 64), (64, 192)):
            frames = render_frames(scene, 49, width, height)[::2]
            border = torch.cat([frames[:, :, (0, -1)].flatten(2), frames[..., (0, -1)].flatten(2)], dim=-1)
            ground = render_frames(scene, 1, width, height)[0, :, 0, 0]
            assert (border - ground[:, None]).abs().max() < 1e-6
            separate = [
                render_frames(replace(scene, bodies=(body,)), 49, width, height)[::2] - ground[:, None, None]
                for body in scene.bodies
            ]
            assert not ((separate[0].abs() > 1e-3) & (separate[1].abs() > 1e-3)).any()


def test_colours_in_a_scene_are_distinguishable():
    used = set()
    for seed in range(300):
        scene = sample_scene(seed)
        colours = [scene.background, *(body.colour for body in scene.bodies)]
        used |= set(colours)
        assert not any(confusable(a, b) for a, b in itertools.combinations(colours, 2))
    assert used == set(COLOURS)


def test_every_bounce_has_a_contact_in_the_shortest_clip():
    for seed in range(100):
        assert sample_scene(seed, motion="bounce").contacts(17 / 25)


def test_fixing_one_part_leaves_the_others_to_the_seed():
    for seed in range(20):
        free, fixed = sample_scene(seed), sample_scene(seed, motion="pulse")
        assert fixed.motion == "pulse"
        assert (fixed.background, fixed.actor.kind, fixed.actor.colour) == (
            free.background,
            free.actor.kind,
            free.actor.colour,
        )


def test_values_that_the_world_does_not_have_are_refused():
    with pytest.raises(ValueError, match="orange"):
        sample_scene(0, colour="orange")
    with pytest.raises(ValueError, match="told apart"):
        sample_scene(0, colour="blue", background="black")


def test_captions_name_everything_in_varied_words():
    scene = sample_scene(1, motion="bounce", kind="circle", colour="red", background="blue", company=False)
    assert plain_caption(scene) == "a red circle bounces on a blue background, a knock at each bounce"
    assert len({caption(scene, seed) for seed in range(200)}) > 60
    for seed in range(100):
        scene = sample_scene(seed)
        text = caption(scene, seed).lower()
        for body in scene.bodies:
            assert f"{body.colour} {body.kind}" in text
        assert scene.background in text
        words = text.translate(str.maketrans("", "", ".,;:")).split()
        assert set(words) <= {*vocabulary(), "top", "middle", "bottom", "centre"}


def test_most_captions_name_the_position() -> None:
    scene = sample_scene(1, motion="still", company=False)
    scene = replace(scene, bodies=(replace(scene.actor, path=Still(across=0.25, lift=1.0)),))
    texts = [caption(scene, seed) for seed in range(400)]
    assert 0.65 < sum(" at the top centre left" in text for text in texts) / 400 < 0.85
    bounce = sample_scene(1, motion="bounce", company=False)
    bounce = replace(bounce, bodies=(replace(bounce.actor, path=replace(bounce.actor.path, across=1.0)),))
    assert any(" at the right " in caption(bounce, seed) for seed in range(20))
    company = sample_scene(1, motion="slide_left", company=True)
    assert not any(" at the " in caption(company, seed) for seed in range(20))


def test_captions_without_places_never_name_the_position() -> None:
    scene = sample_scene(1, motion="still", company=False)
    for seed in range(50):
        placed, unplaced = caption(scene, seed), caption(scene, seed, places=False)
        assert unplaced == re.sub(
            r" at the (top|middle|bottom) ((centre )?(left|right)|centre)\b", "", placed
        )


def test_every_caption_fits_into_the_contexts_of_recorded_steps(world_gemma) -> None:
    _, tokenizer = load_text(world_gemma)
    longest = tokenizer([caption(sample_scene(seed), seed) for seed in range(500)])[1].sum(dim=1).max()
    scale = gpu_scale()
    for flow in (scale.transformer, scale.distilled.flow, scale.edges.flow):
        assert min(choice.length for _, choices in flow.contexts for choice in choices) > longest


def test_captions_of_different_motions_differ_in_words():
    for a, b in itertools.combinations(MOTIONS, 2):
        texts = [{caption(sample_scene(5, motion=motion), seed) for seed in range(50)} for motion in (a, b)]
        assert not texts[0] & texts[1]


def test_an_empty_frame_and_silence_are_measured_as_such():
    measured = measure(torch.full((9, 3, 64, 64), 0.8), torch.zeros(2, 5760), 16000)
    assert (measured.background, measured.actor, measured.motion) == ("white", None, "still")
    assert measured.audio.sound == "silence"
    assert contact_onset_distance(measured) == math.inf


def test_f1_counts_misses_and_extras_but_not_at_the_ends():
    score = event_f1([0.31, 0.6, 0.99], [0.3, 0.8], tolerance_s=0.02, seconds=1.0, margin_s=0.05)
    assert score == pytest.approx(2 / (2 + 1 + 1))
    assert event_f1([], [], tolerance_s=0.02, seconds=1.0) == 1.0
    # A found event matches one true event only.
    assert event_f1([0.5], [0.49, 0.51], tolerance_s=0.04, seconds=1.0) == pytest.approx(2 / 3)


def test_event_distance_counts_both_sides():
    assert event_distance([0.2, 0.6], [0.2, 0.64]) == pytest.approx(0.02)
    assert event_distance([0.2], [0.2, 0.6, 1.0]) == pytest.approx(0.2)
    assert event_distance([], [0.2]) == math.inf


def test_edges_follow_outlines_and_differ_by_shape_and_sharpness():
    square = sample_scene(2, motion="still", kind="square", company=False)
    frames = render_frames(square, 1, 96, 96)
    edges = edge_map(frames)
    side = 2 * square.actor.radius * math.sqrt(math.pi) / 2 * 96
    assert float(edges.sum()) == pytest.approx(4 * side, rel=0.15)
    assert edge_iou(edges, edges) == 1
    moved = sample_scene(4, motion="still", kind="circle", company=False)
    assert edge_iou(edges, edge_map(render_frames(moved, 1, 96, 96))) < 0.5
    blurred = F.avg_pool2d(frames, 5, stride=1, padding=2, count_include_pad=False)
    assert edge_sharpness(frames) > 0.4 > 0.25 > edge_sharpness(blurred)


def test_truth_counts_the_contacts_of_the_clip_only():
    scene = sample_scene(3, motion="bounce")
    short, long = (truth_of(scene, frames, 64, 64) for frames in (17, 49))
    assert long.contacts_s[: len(short.contacts_s)] == short.contacts_s
    assert all(at < short.seconds for at in short.contacts_s)
    assert short.centres.shape == (len(scene.bodies), 17, 2)
