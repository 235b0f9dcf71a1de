"""Samplers: exact on perfect denoisers, split schedules, published coefficients."""

from __future__ import annotations

import pytest
import torch

from ltx2_core.sampling.samplers import (
    SAMPLERS,
    ancestral_step,
    sample_euler,
    sample_euler_ancestral,
)
from ltx2_core.sampling.schedules import DISTILLED_SIGMAS, ltxv_sigmas
from ltx2_core.types import AVLatent

SHAPES = (2, 128, 2, 2, 2), (2, 8, 9, 16)


def latent(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return AVLatent(*(torch.randn(shape, generator=generator) for shape in SHAPES))


def towards(target):
    return lambda x, sigma: target


def curved(x, sigma):
    return x * (0.5 + 0.3 * sigma)


def equal(a, b):
    return torch.equal(a.video, b.video) and torch.equal(a.audio, b.audio)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("sigmas", [torch.tensor([1.0, 0.0]), DISTILLED_SIGMAS, ltxv_sigmas(5)])
def test_a_model_that_always_sees_the_same_clip_gives_exactly_that_clip(name, sigmas):
    target = latent(1)
    out = SAMPLERS[name](towards(target), latent(2), sigmas, generator=torch.Generator())
    assert equal(out, target)


def test_euler_stays_on_the_straight_line_between_noise_and_clip():
    target, noise = latent(1), latent(2)
    out = sample_euler(towards(target), noise, DISTILLED_SIGMAS[:5])
    sigma = DISTILLED_SIGMAS[4].item()
    torch.testing.assert_close(out.video, sigma * noise.video + (1 - sigma) * target.video)


@pytest.mark.parametrize("split", range(1, 8))
def test_a_split_schedule_gives_the_unsplit_result(split):
    whole = sample_euler(curved, latent(), DISTILLED_SIGMAS)
    first = sample_euler(curved, latent(), DISTILLED_SIGMAS[: split + 1])
    assert equal(sample_euler(curved, first, DISTILLED_SIGMAS[split:]), whole)


def test_ancestral_without_eta_is_euler_and_needs_no_generator():
    euler = sample_euler(curved, latent(), DISTILLED_SIGMAS)
    assert equal(sample_euler_ancestral(curved, latent(), DISTILLED_SIGMAS, eta=0.0), euler)
    with pytest.raises(ValueError, match="generator"):
        sample_euler_ancestral(curved, latent(), DISTILLED_SIGMAS)


@pytest.mark.parametrize(
    ("sigma", "sigma_next", "eta", "down", "keep", "alpha", "noise"),
    [
        (0.909375, 0.725, 1.0, 0.578007, 0.635609, 0.651669, 0.619472),
        (1.0, 0.99375, 1.0, 0.987539, 0.987539, 0.501567, 0.861510),
        (0.725, 0.421875, 1.0, 0.245488, 0.338604, 0.766223, 0.377621),
        (0.909375, 0.725, 0.5, 0.651503, 0.716430, 0.789104, 0.511197),
    ],
)
def test_ancestral_coefficients_are_the_published_ones(sigma, sigma_next, eta, down, keep, alpha, noise):
    step = ancestral_step(sigma, sigma_next, eta)
    assert (step.down, step.down / sigma, step.alpha, step.noise) == pytest.approx(
        (down, keep, alpha, noise), abs=2e-6
    )


def test_ancestral_noise_is_decided_by_the_generator_alone():
    def run(seed):
        return sample_euler_ancestral(
            curved, latent(), DISTILLED_SIGMAS, generator=torch.Generator().manual_seed(seed)
        )

    assert equal(run(1), run(1))
    assert not equal(run(1), run(2))


def test_kept_content_can_be_put_back_after_the_noise():
    clean, seen = latent(3), []

    def denoise(x, sigma):
        seen.append(x)
        return clean

    sample_euler_ancestral(
        denoise,
        clean,
        DISTILLED_SIGMAS,
        generator=torch.Generator(),
        keep=lambda x: AVLatent(x.video, clean.audio),
    )
    assert all(torch.equal(x.audio, clean.audio) for x in seen)
    assert not torch.equal(seen[-1].video, clean.video)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_step_is_reported_with_its_clean_estimate_and_may_stop_the_run(name):
    class Stopped(Exception):
        pass

    steps = []

    def on_step(step, total, x0):
        steps.append((step, total))
        assert equal(x0, target)
        if step == 3:
            raise Stopped

    target = latent(1)
    with pytest.raises(Stopped):
        SAMPLERS[name](towards(target), latent(), DISTILLED_SIGMAS, on_step, generator=torch.Generator())
    assert steps == [(1, 8), (2, 8), (3, 8)]


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_start_is_not_written_to_and_half_precision_is_raised_to_float32(name):
    start = latent().to(dtype=torch.bfloat16)
    before = start.map(torch.clone)
    out = SAMPLERS[name](curved, start, DISTILLED_SIGMAS, generator=torch.Generator())
    assert equal(start, before)
    assert out.video.dtype == torch.float32


def test_rising_sigmas_are_refused_before_the_first_evaluation():
    def denoise(x, sigma):
        raise AssertionError("evaluated")

    with pytest.raises(ValueError, match="does not fall"):
        sample_euler(denoise, latent(), torch.tensor([0.5, 1.0, 0.0]))


def test_a_single_stream_samples_alone():
    video = AVLatent(latent().video, None)
    assert sample_euler(curved, video, DISTILLED_SIGMAS).audio is None
