"""The motion check: what stands still, what moves, and how fast."""

from __future__ import annotations

import pytest
import torch

from ltx2_core.media.motion import SIDE, MotionMeter
from ltx2_core.run.image_checks import LEAST_SPEED
from ltx2_core.training.world import FPS, render_clip, sample_scene
from ltx2_core.training.world.batches import HELD_OUT


def clip_of(motion: str, seed: int) -> torch.Tensor:
    scene = sample_scene(HELD_OUT + seed, motion=motion)
    return render_clip(scene, 17, 128, 128, 16000, caption_seed=seed).frames


def speed_of(frames: torch.Tensor, chunk: int = 8) -> float:
    meter = MotionMeter()
    for part in frames.split(chunk):
        meter.add(part)
    return meter.speed(FPS)


@pytest.mark.parametrize("motion", ["bounce", "slide_left", "slide_right", "pulse"])
def test_clips_of_the_world_move_and_their_stills_do_not(motion):
    noise = torch.Generator().manual_seed(0)
    for seed in range(6):
        frames = clip_of(motion, seed)
        still = frames[:1].expand_as(frames) + 0.01 * torch.randn(frames.shape, generator=noise)
        assert speed_of(still) < LEAST_SPEED < 10 < speed_of(frames)


def test_a_pan_has_its_own_speed_whatever_the_size_and_the_chunks():
    generator = torch.Generator().manual_seed(0)
    texture = torch.nn.functional.interpolate(
        torch.rand(1, 3, 8, 24, generator=generator), size=(256, 768), mode="bicubic"
    )[0].clamp(0, 1)
    # Two pixels of 256 in each frame.
    frames = torch.stack([texture[:, :, 2 * i : 2 * i + 256] for i in range(17)]) * 2 - 1
    expected = 100 * 2 / 256 * FPS
    assert speed_of(frames) == pytest.approx(expected, rel=0.25)
    half = torch.nn.functional.avg_pool2d(frames, 2)
    assert speed_of(half) == pytest.approx(speed_of(frames), rel=0.05)
    assert speed_of(frames, chunk=3) == pytest.approx(speed_of(frames), rel=1e-5)
    as_bytes = ((frames / 2 + 0.5) * 255).round().byte()
    assert speed_of(as_bytes) == pytest.approx(speed_of(frames), rel=0.05)


def test_one_frame_does_not_move():
    assert speed_of(torch.rand(1, 3, SIDE, SIDE)) == 0
