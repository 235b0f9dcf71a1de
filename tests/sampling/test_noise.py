"""Noise: the published fingerprints, and the order video first, then audio."""

from __future__ import annotations

import pytest
import torch

from ltx2_core.conditioning.guide_frames import GuideFrames
from ltx2_core.conditioning.items import ImageInPlace, InputAudio
from ltx2_core.conditioning.state import empty_state
from ltx2_core.sampling.noise import initial_state, make_noise
from ltx2_core.shapes import plan_clip
from ltx2_core.types import AVLatent, Numerics

SMALL = AVLatent(torch.zeros(1, 128, 2, 2, 2), torch.zeros(1, 8, 9, 16))
CLIP = AVLatent(torch.zeros(1, 128, 16, 16, 24), torch.zeros(1, 8, 127, 16))


@pytest.mark.parametrize(
    ("seed", "like", "video", "audio"),
    [
        (42, CLIP, [1.926915, 1.487284, 0.900717, -2.105521], [1.234574, 0.612110, -0.375089, -0.457740]),
        (42, SMALL, [1.926915, 1.487284, 0.900717, -2.105521], [-1.224788, 0.962886, -1.578541, 0.671595]),
        (10, CLIP, [-0.817334, -0.555569, -0.826690, -1.296954], [-0.269080, 0.939518, -0.530512, 0.057147]),
    ],
)
def test_noise_has_the_published_fingerprint(seed, like, video, audio):
    noise = make_noise(like, seed)
    for drawn, expected in ((noise.video, video), (noise.audio, audio)):
        torch.testing.assert_close(drawn.flatten()[:4], torch.tensor(expected), atol=1e-6, rtol=0)


def test_a_plan_draws_the_same_as_a_latent_of_its_shape_and_follows_its_audio_length():
    official = plan_clip(768, 512, frames=121)
    comfy = plan_clip(768, 512, frames=121, numerics=Numerics.COMFY)
    assert torch.equal(make_noise(comfy, 42).audio, make_noise(CLIP, 42).audio)
    noise = make_noise(official, 42)
    assert noise.video.mean().item() == pytest.approx(-0.00097938, abs=1e-7)
    assert noise.audio.mean().item() == pytest.approx(-0.00403859, abs=1e-7)
    assert make_noise(comfy, 42).audio.mean().item() == pytest.approx(-0.00276053, abs=1e-7)


def test_guide_frames_change_the_noise_of_the_audio_and_not_the_global_generator():
    torch.manual_seed(1)
    untouched = torch.get_rng_state()
    state = empty_state(plan_clip(64, 64, frames=9))
    guided = GuideFrames(latent=torch.zeros(1, 128, 1, 2, 2), frame=0).apply(state)
    assert not torch.equal(make_noise(state.latent, 3).audio, make_noise(guided.latent, 3).audio)
    assert torch.equal(torch.get_rng_state(), untouched)


def test_a_generator_continues_and_a_batch_is_one_draw():
    generator = torch.Generator().manual_seed(5)
    first, second = make_noise(SMALL, generator), make_noise(SMALL, generator)
    assert torch.equal(first.video, make_noise(SMALL, 5).video)
    assert not torch.equal(first.video, second.video)
    plan = plan_clip(64, 64, frames=9)
    assert make_noise(plan, 0, batch=3).audio.shape == (3, *plan.audio_shape()[1:])


def test_one_stream_alone_is_drawn_alone():
    assert make_noise(AVLatent(None, SMALL.audio), 1).video is None
    assert make_noise(AVLatent(SMALL.video, None), 1).audio is None


@pytest.mark.parametrize("sigma", [1.0, 0.909375])
def test_the_start_mixes_noise_by_the_mask_officially_and_everywhere_in_comfy(sigma):
    latent = torch.randn(2, 128, 4, 2, 2)
    state = empty_state(plan_clip(64, 64, frames=25, fps=25), 2)
    state = ImageInPlace(latent=latent, strength=0.0).apply(state)
    state = ImageInPlace(latent=latent[:, :, :2], strength=0.6).apply(state)
    state = ImageInPlace(latent=latent[:, :, :1]).apply(state)
    state = InputAudio(latent=torch.randn(1, 8, 25, 16)).apply(state)
    noise = make_noise(state.latent, 1)

    official = initial_state(state, noise, sigma)
    expected = state.latent.video + state.mask.video * sigma * (noise.video - state.latent.video)
    torch.testing.assert_close(official.video, expected)
    assert torch.equal(official.video[:, :, 0], latent[:, :, 0])
    assert torch.equal(official.audio, state.latent.audio)

    comfy = initial_state(state, noise, sigma, Numerics.COMFY)
    torch.testing.assert_close(comfy.video, sigma * noise.video + (1 - sigma) * state.latent.video)
    torch.testing.assert_close(comfy.audio, sigma * noise.audio + (1 - sigma) * state.latent.audio)
