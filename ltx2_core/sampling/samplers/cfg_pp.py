"""CFG++ (Chung et al. 2024, arXiv 2406.08070): guided x0, and the noise of the negative estimate."""

from __future__ import annotations

import math

from ...types import AVLatent
from .base import SamplerRun, Stepped, sampler


@sampler("euler_ancestral_cfg_pp", eta=1.0, paired=True)
def sample_euler_ancestral_cfg_pp(
    run: SamplerRun, x: AVLatent, sigma: float, sigma_next: float, *, eta: float
) -> Stepped:
    """CFG++ that replaces part of the noise by fresh noise at each step: none for ``eta`` 0, most for 1."""
    return _cfg_pp(run, x, sigma, sigma_next, eta)


@sampler("euler_cfg_pp", paired=True)
def sample_euler_cfg_pp(run: SamplerRun, x: AVLatent, sigma: float, sigma_next: float) -> Stepped:
    """CFG++ (Chung et al. 2024, arXiv 2406.08070) in Euler steps, without fresh noise."""
    return _cfg_pp(run, x, sigma, sigma_next, eta=0.0)


def _cfg_pp(run: SamplerRun, x: AVLatent, sigma: float, sigma_next: float, eta: float) -> Stepped:
    """One step of CFG++: the next state is ``(1 - sigma_next) x0 + sigma_next n``.

    x0 is the guided estimate. n is the noise in ``x`` under the assumption that its clean latent is the
    estimate of the negative prompt; ``eta`` decides how much of n is replaced by fresh noise. A step to 0
    returns x0.
    """
    x0, negative = run.pair(x, sigma)
    if sigma_next == 0:
        return Stepped(x0, x0)
    # At sigma 1 and eta 1 all noise is fresh. ComfyUI gets the same by the order of NaN in a minimum, the
    # official code by a clamp of the signal.
    fresh = cfg_pp_step(sigma, sigma_next, eta)
    # The variances of old and fresh noise add up to 1, so that the state has exactly the noise sigma_next.
    noise = (x - negative * (1 - sigma)) * (math.sqrt(1 - fresh**2) / sigma)
    if fresh > 0:
        noise = noise + run.noise(x) * fresh
    return Stepped(run.preserve(x0 * (1 - sigma_next) + noise * sigma_next), x0)


def cfg_pp_step(sigma: float, sigma_next: float, eta: float) -> float:
    """The share of fresh noise, from 0 to 1, in the noise of the next state; ``sigma_next`` must be above 0.

    It is the share of k-diffusion's ancestral step for the ratio of noise to signal, ``sigma / (1 - sigma)``,
    times ``eta``. At sigma 1, where the ratio is infinite, it is the limit, ``eta``.
    """
    ratio = sigma_next * (1 - sigma) / (sigma * (1 - sigma_next))
    # Rounding may carry the difference below 0, and an eta above 1 the share above 1.
    return min(1.0, eta * math.sqrt(max(0.0, 1 - ratio**2)))
