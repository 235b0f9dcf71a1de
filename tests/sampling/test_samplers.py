"""Samplers: exact on perfect denoisers, split schedules, published coefficients."""

from __future__ import annotations

import pytest
import torch

from ltx2_core.sampling.samplers import (
    EVALUATIONS,
    PAIRED,
    SAMPLERS,
    STOCHASTIC,
    Estimates,
    History,
    ancestral_step,
    cfg_pp_step,
    get_sampler,
    res_2s_step,
    sample_euler,
    sample_euler_ancestral,
    sample_euler_ancestral_cfg_pp,
    sample_euler_cfg_pp,
    sample_gradient_estimation,
    sample_res_2s,
    sde_step,
)
from ltx2_core.sampling.schedules import DISTILLED_SIGMAS, ltxv_sigmas
from ltx2_core.types import AVLatent

SHAPES = (2, 128, 2, 2, 2), (2, 8, 9, 16)


def latent(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return AVLatent(*(torch.randn(shape, generator=generator) for shape in SHAPES))


class Flow:
    """A denoiser by a function; the negative prompt has the same estimate."""

    def __init__(self, x0):
        self.x0, self.calls = x0, []

    def __call__(self, x, sigma):
        self.calls.append(sigma)
        return self.x0(x, sigma)

    def pair(self, x, sigma):
        return Estimates(self(x, sigma), self.x0(x, sigma))


def towards(target):
    return Flow(lambda x, sigma: target)


curved = Flow(lambda x, sigma: x * (0.5 + 0.3 * sigma))


def equal(a, b):
    return torch.equal(a.video, b.video) and torch.equal(a.audio, b.audio)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("sigmas", [torch.tensor([1.0, 0.0]), DISTILLED_SIGMAS, ltxv_sigmas(5)])
def test_a_constant_estimate_is_the_result_exactly(name, sigmas):
    target = latent(1)
    out = SAMPLERS[name](towards(target), latent(2), sigmas, generator=torch.Generator())
    assert equal(out, target)


def test_euler_stays_on_the_straight_line_between_noise_and_clip():
    target, noise = latent(1), latent(2)
    out = sample_euler(towards(target), noise, DISTILLED_SIGMAS[:5])
    sigma = DISTILLED_SIGMAS[4].item()
    torch.testing.assert_close(out.video, sigma * noise.video + (1 - sigma) * target.video)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("split", [1, 4, 7])
def test_a_split_schedule_gives_the_unsplit_result(name, split):
    def run(*parts):
        x, generator, history = latent(), torch.Generator().manual_seed(3), History()
        for sigmas in parts:
            x = SAMPLERS[name](curved, x, sigmas, generator=generator, history=history)
        return x

    whole = run(DISTILLED_SIGMAS)
    assert equal(run(DISTILLED_SIGMAS[: split + 1], DISTILLED_SIGMAS[split:]), whole)


@pytest.mark.parametrize("name", ["dpmpp_2m", "res_multistep", "gradient_estimation"])
def test_without_its_history_a_multistep_sampler_starts_again_with_an_euler_step(name):
    x, sigmas = latent(), DISTILLED_SIGMAS[4:7]
    first = SAMPLERS[name](curved, x, sigmas[:2])
    assert equal(first, sample_euler(curved, x, sigmas[:2]))
    again = SAMPLERS[name](curved, first, sigmas[1:])
    assert equal(again, sample_euler(curved, first, sigmas[1:]))
    assert not equal(again, SAMPLERS[name](curved, x, sigmas))


def test_ancestral_without_eta_is_euler_and_needs_no_generator():
    euler = sample_euler(curved, latent(), DISTILLED_SIGMAS)
    assert equal(sample_euler_ancestral(curved, latent(), DISTILLED_SIGMAS, eta=0.0), euler)
    with pytest.raises(ValueError, match="generator"):
        sample_euler_ancestral(curved, latent(), DISTILLED_SIGMAS)


@pytest.mark.parametrize(
    ("sigma", "sigma_next", "eta", "down", "ratio", "alpha", "noise"),
    [
        (0.909375, 0.725, 1.0, 0.578007, 0.635609, 0.651669, 0.619472),
        (1.0, 0.99375, 1.0, 0.987539, 0.987539, 0.501567, 0.861510),
        (0.725, 0.421875, 1.0, 0.245488, 0.338604, 0.766223, 0.377621),
        (0.909375, 0.725, 0.5, 0.651503, 0.716430, 0.789104, 0.511197),
    ],
)
def test_ancestral_coefficients_are_the_published_ones(sigma, sigma_next, eta, down, ratio, alpha, noise):
    step = ancestral_step(sigma, sigma_next, eta)
    assert (step.down, step.down / sigma, step.alpha, step.noise) == pytest.approx(
        (down, ratio, alpha, noise), abs=2e-6
    )


def test_ancestral_noise_is_decided_by_the_generator_alone():
    def run(seed):
        return sample_euler_ancestral(
            curved, latent(), DISTILLED_SIGMAS, generator=torch.Generator().manual_seed(seed)
        )

    assert equal(run(1), run(1))
    assert not equal(run(1), run(2))


def test_content_can_be_preserved_after_the_noise():
    clean, states = latent(3), []

    def denoise(x, sigma):
        states.append(x)
        return clean

    sample_euler_ancestral(
        denoise,
        clean,
        DISTILLED_SIGMAS,
        generator=torch.Generator(),
        preserve=lambda x: AVLatent(x.video, clean.audio),
    )
    assert all(torch.equal(x.audio, clean.audio) for x in states)
    assert not torch.equal(states[-1].video, clean.video)


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


def gaussian(deviation, mean=0.3):
    """The exact denoiser of Gaussian data, and the state of the noise ``z`` at any sigma."""

    def spread(sigma):
        return ((deviation * (1 - sigma)) ** 2 + sigma**2) ** 0.5

    def x0(x, sigma):
        gain = deviation**2 * (1 - sigma) / spread(sigma) ** 2
        return x.map(lambda t: mean + gain * (t - (1 - sigma) * mean))

    def state(z, sigma):
        return z.map(lambda t: (1 - sigma) * mean + spread(sigma) * t)

    return Flow(x0), state


@pytest.mark.parametrize(
    ("name", "options", "order"),
    [
        ("euler", {}, 1),
        ("euler_cfg_pp", {}, 1),
        ("gradient_estimation", {}, 1),
        ("gradient_estimation", {"gamma": 1.5}, 2),
        ("dpmpp_2m", {}, 2),
        ("res_multistep", {}, 2),
        ("res_2s", {"eta": 0.0}, 2),
    ],
)
def test_the_error_falls_with_the_order_of_the_sampler(name, options, order):
    denoise, state = gaussian(0.5)
    z = latent().map(lambda t: t[:, :4])
    errors = []
    for steps in (16, 32):
        sigmas = torch.linspace(0.9, 0.2, steps + 1)
        out = SAMPLERS[name](denoise, state(z, sigmas[0].item()), sigmas, **options)
        errors.append((out.video - state(z, sigmas[-1].item()).video).square().mean().sqrt())
    measured = torch.log2(errors[0] / errors[1]).item()
    assert measured == pytest.approx(order, abs=0.3)


# The estimate of a distilled model is a sample, for which lcm is made; that of this denoiser is a mean.
@pytest.mark.parametrize("name", [name for name in STOCHASTIC if name != "lcm"])
def test_fresh_noise_preserves_the_distribution(name):
    denoise, state = gaussian(0.5)
    z = AVLatent(torch.randn(1, 128, 4, 4, 8, generator=torch.Generator().manual_seed(5)), None)
    sigmas = torch.linspace(0.95, 0.3, 33)
    out = SAMPLERS[name](
        denoise, state(z, 0.95), sigmas, generator=torch.Generator().manual_seed(1), history=None
    )
    expected = state(z, 0.3).video.std()
    assert out.video.std() == pytest.approx(expected.item(), rel=0.12)
    assert not torch.allclose(out.video, state(z, 0.3).video, atol=0.1)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_step_costs_the_declared_evaluations(name):
    flow = Flow(curved.x0)
    SAMPLERS[name](flow, latent(), DISTILLED_SIGMAS[:4], generator=torch.Generator())
    assert len(flow.calls) == 3 * EVALUATIONS.get(name, 1)
    flow.calls.clear()
    SAMPLERS[name](flow, latent(), DISTILLED_SIGMAS, generator=torch.Generator())
    assert len(flow.calls) == (17 if name == "res_2s" else 8)


@pytest.mark.parametrize(
    ("sigma", "sigma_next", "h", "a21", "b1", "b2"),
    [
        (0.909375, 0.725, 0.226586, 0.472717, -0.033763, 0.928563),
        (1.0, 0.99375, 0.006270, 0.499217, -0.001042, 0.997913),
        (0.725, 0.421875, 0.541463, 0.438033, -0.069346, 0.841520),
    ],
)
def test_res_2s_coefficients_are_the_published_ones(sigma, sigma_next, h, a21, b1, b2):
    step = res_2s_step(sigma, sigma_next)
    assert (step.h, step.a21, step.b1, step.b2) == pytest.approx((h, a21, b1, b2), abs=1e-6)
    assert step.sigma == pytest.approx((sigma * sigma_next) ** 0.5)


def test_res_2s_noise_coefficients_are_the_published_ones():
    assert res_2s_step(0.909375, 0.725).sigma == pytest.approx(0.811971, abs=1e-6)
    step = sde_step(0.725, 0.5)
    assert (step.noise, step.alpha, step.down) == pytest.approx((0.3625, 0.902868, 0.695415), abs=1e-6)
    assert sde_step(0.725, 0.0) == pytest.approx((0.0, 1.0, 0.725))
    assert sde_step(0.725, 1.0).noise == pytest.approx(0.9999 * 0.725)


def test_the_coefficients_of_tiny_steps_are_precise():
    step = res_2s_step(0.5 * (1 + 1e-9), 0.5)
    assert (step.a21, step.b1, step.b2) == pytest.approx((0.5, 0.0, 1.0), abs=1e-6)


def test_res_2s_repeats_the_anchor_of_the_official_loop():
    from ltx2_core.sampling.samplers.res_2s import _anchor

    x0, middle = latent(1), latent(2)
    weight, start = 0.22, latent(3)
    for _ in range(100):
        start = middle - (x0 - start) * weight
    torch.testing.assert_close(_anchor(middle, x0, weight).video, start.video)


def test_res_2s_standardises_the_noise_of_each_sample_and_stream_by_itself():
    both, alone = latent(), AVLatent(None, latent().audio)
    flow = Flow(lambda x, sigma: x * 0.5)
    sigmas = DISTILLED_SIGMAS[5:7]

    def added(x):
        out = sample_res_2s(flow, x, sigmas, generator=torch.Generator().manual_seed(2), substep_eta=0.0)
        plain = sample_res_2s(flow, x, sigmas, eta=0.0)
        c = sde_step(sigmas[1].item(), 0.5)
        sigma, sigma_next = sigmas.tolist()

        def noise(noised, moved, start):
            direction = (start.double() - moved) / (sigma - sigma_next)
            rest = (start - direction * sigma + direction * c.down) * c.alpha
            return (noised - rest) / c.noise

        return AVLatent(
            None if x.video is None else noise(out.video, plain.video, x.video),
            noise(out.audio, plain.audio, x.audio),
        )

    for noise in (added(both).video, added(both).audio, added(alone).audio):
        flat = noise.flatten(1)
        torch.testing.assert_close(flat.mean(dim=1), torch.zeros(2).double(), atol=1e-5, rtol=0)
        torch.testing.assert_close(flat.std(dim=1), torch.ones(2).double(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_cfg_pp_gives_the_published_step(eta):
    x, x0, u0 = latent(0), latent(1), latent(2)

    class Guided:
        def __call__(self, x, sigma):
            raise AssertionError("pair() was not used")

        def pair(self, x, sigma):
            return Estimates(x0, u0)

    s, t = 0.909375, 0.725
    generator = torch.Generator().manual_seed(4)
    out = sample_euler_ancestral_cfg_pp(Guided(), x, torch.tensor([s, t]), generator=generator, eta=eta)
    n = torch.randn(x.video.shape, generator=torch.Generator().manual_seed(4))
    a, b, s_, t_ = 1 - s, 1 - t, s / (1 - s), t / (1 - t)
    up = min(t_, eta * (t_**2 * (s_**2 - t_**2) / s_**2) ** 0.5)
    down = (t_**2 - up**2) ** 0.5
    expected = b * x0.video + b * down * (x.video - a * u0.video) / s + b * up * n
    torch.testing.assert_close(out.video, expected)


def test_cfg_pp_replaces_all_noise_at_sigma_1_with_eta_1():
    assert cfg_pp_step(1.0, 0.99375, 1.0) == 1.0
    assert cfg_pp_step(1.0, 0.99375, 0.5) == 0.5
    x0 = latent(1)
    out = sample_euler_ancestral_cfg_pp(
        towards(x0), latent(2), torch.tensor([1.0, 0.9]), generator=torch.Generator().manual_seed(4)
    )
    noise = torch.randn(x0.video.shape, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(out.video, 0.1 * x0.video + 0.9 * noise)


def test_cfg_pp_without_fresh_noise_and_guidance_is_euler():
    out = sample_euler_cfg_pp(curved, latent(), DISTILLED_SIGMAS)
    torch.testing.assert_close(out.video, sample_euler(curved, latent(), DISTILLED_SIGMAS).video)


@pytest.mark.parametrize("name", sorted(PAIRED))
def test_cfg_pp_refuses_a_denoiser_that_has_no_estimate_of_the_negative_prompt(name):
    with pytest.raises(ValueError, match="negative prompt"):
        SAMPLERS[name](lambda x, sigma: x, latent(), DISTILLED_SIGMAS, generator=torch.Generator())


def test_gradient_estimation_extrapolates_the_velocity():
    x, sigmas = latent(), DISTILLED_SIGMAS[5:8]
    (a, b, c), one = sigmas.tolist(), curved.x0
    before = (x - one(x, a)) * (1 / a)
    middle = x + before * (b - a)
    velocity = (middle - one(middle, b)) * (1 / b)
    expected = middle + (velocity * 2 - before) * (c - b)
    out = sample_gradient_estimation(curved, x, sigmas)
    torch.testing.assert_close(out.video, expected.video)
    plain = sample_gradient_estimation(curved, x, sigmas, gamma=1.0)
    torch.testing.assert_close(plain.video, sample_euler(curved, x, sigmas).video)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_every_stochastic_sampler_takes_an_eta_and_0_needs_no_generator(name):
    run = get_sampler(name, eta=0.0)
    assert equal(run(curved, latent(), DISTILLED_SIGMAS), run(curved, latent(), DISTILLED_SIGMAS))
    with pytest.raises(ValueError, match="generator"):
        get_sampler(name)(curved, latent(), DISTILLED_SIGMAS)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        get_sampler(name, eta=1.5)


def test_unknown_samplers_and_an_eta_without_meaning_are_refused():
    with pytest.raises(ValueError, match="euler_ancestral"):
        get_sampler("magic")
    with pytest.raises(ValueError, match="no meaning"):
        get_sampler("euler", eta=0.5)
    assert get_sampler("euler") is sample_euler
