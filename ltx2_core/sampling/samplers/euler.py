"""Euler steps of the rectified-flow ODE, plain and ancestral."""

from __future__ import annotations

import math
from typing import NamedTuple

from ...types import AVLatent
from .base import SamplerRun, Stepped, sampler


@sampler("euler")
def sample_euler(run: SamplerRun, x: AVLatent, sigma: float, sigma_next: float) -> Stepped:
    """Euler steps of the rectified-flow ODE ``dx/dsigma = (x - x0) / sigma`` (Liu et al., arXiv 2209.03003).

    Adds no noise.
    """
    x0 = run.denoise(x, sigma)
    # Written around x0, so that a step to 0 returns x0 bit for bit.
    return Stepped(x0 + (x - x0) * (sigma_next / sigma), x0)


@sampler("euler_ancestral", eta=1.0)
def sample_euler_ancestral(
    run: SamplerRun, x: AVLatent, sigma: float, sigma_next: float, *, eta: float
) -> Stepped:
    """An Euler step to below the next sigma, followed by fresh noise that raises the noise level to it.

    The ancestral sampling of Karras et al. 2022 (arXiv 2206.00364) as k-diffusion splits it, for rectified
    flow as ComfyUI does. ``eta`` 0 is plain Euler and adds no noise; 1 replaces the most noise.
    """
    x0 = run.denoise(x, sigma)
    c = ancestral_step(sigma, sigma_next, eta)
    x = x0 + (x - x0) * (c.down / sigma)
    if c.noise > 0:
        x = run.preserve(x * c.alpha + run.noise(x) * c.noise)
    return Stepped(x, x0)


@sampler("lcm", eta=1.0)
def sample_lcm(run: SamplerRun, x: AVLatent, sigma: float, sigma_next: float, *, eta: float) -> Stepped:
    """The clean estimate with fresh noise of the next sigma: (1 - sigma_next) x0 + sigma_next noise.

    The sampler of latent consistency models (Luo et al. 2023, arXiv 2310.04378), by which LTX-Video 0.9.6
    distilled is sampled. ``eta`` is the share of the noise's variance that is fresh; the rest is the noise
    that the state has, so that 0 is plain Euler.
    """
    x0 = run.denoise(x, sigma)
    if eta == 0 or sigma_next == 0:
        return Stepped(x0 + (x - x0) * (sigma_next / sigma), x0)
    fresh = run.noise(x) * math.sqrt(eta)
    own = (x - x0 * (1 - sigma)) * (math.sqrt(1 - eta) / sigma)
    return Stepped(run.preserve(x0 * (1 - sigma_next) + (fresh + own) * sigma_next), x0)


class AncestralStep(NamedTuple):
    """Coefficients of an ancestral step.

    An Euler step goes to the sigma ``down``; the state is then multiplied by ``alpha``, and unit noise times
    ``noise`` is added.
    """

    down: float
    alpha: float
    noise: float


def ancestral_step(sigma: float, sigma_next: float, eta: float) -> AncestralStep:
    """Coefficients of a step from ``sigma`` to the noise level ``sigma_next``.

    After it a state has the signal ``1 - sigma_next`` and the noise ``sigma_next``. ``eta`` 0 adds no fresh
    noise, 1 the most.
    """
    down = sigma_next * (1 + (sigma_next / sigma - 1) * eta)
    # The last step adds no noise, since nothing would remove it.
    if eta == 0 or sigma_next == 0:
        return AncestralStep(down=down, alpha=1.0, noise=0.0)
    # Rectified flow does not preserve variance: the signal has to shrink to 1 - sigma_next before noise is
    # added. k-diffusion's formula for variance-exploding models has no such factor.
    alpha = (1 - sigma_next) / (1 - down)
    # Rounding may make the difference of the squares slightly negative.
    return AncestralStep(
        down=down, alpha=alpha, noise=math.sqrt(max(0.0, sigma_next**2 - (down * alpha) ** 2))
    )
