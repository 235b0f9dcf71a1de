"""Multistep samplers: second order at one evaluation per step, by what the previous step computed.

Time is ``-ln(sigma)`` and h its step, in which ``dx = x0 - x``: an Euler step in sigma is exact for a
constant x0, and a second-order method adds the change of x0 since the previous step, times a weight. The
first step and the one that ends in 0 are Euler steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ...types import AVLatent
from .base import SamplerRun, Stepped, sampler
from .res_2s import phi2


@sampler("dpmpp_2m")
def sample_dpmpp_2m(run: SamplerRun, x: AVLatent, sigma: float, sigma_next: float) -> Stepped:
    """DPM-Solver++ (2M) of Lu et al. 2022 (arXiv 2211.01095), with ``-ln(sigma)`` as time like ComfyUI."""
    return _extrapolate(run, x, sigma, sigma_next, lambda h, h_last: -math.expm1(-h) * h / (2 * h_last))


@sampler("res_multistep")
def sample_res_multistep(run: SamplerRun, x: AVLatent, sigma: float, sigma_next: float) -> Stepped:
    """RES, the refined exponential solver, in its multistep form (Zhang et al. 2023, arXiv 2308.02157)."""
    return _extrapolate(run, x, sigma, sigma_next, lambda h, h_last: phi2(-h) * h * h / h_last)


@sampler("gradient_estimation")
def sample_gradient_estimation(
    run: SamplerRun, x: AVLatent, sigma: float, sigma_next: float, *, gamma: float = 2.0
) -> Stepped:
    """Euler steps along ``gamma v + (1 - gamma) v_last`` (Permenter and Yuan 2023, arXiv 2306.04848).

    v is the velocity of the step and v_last that of the previous one. ``gamma`` 1 is plain Euler. First
    order; it pays at few steps.
    """
    x0, last = run.denoise(x, sigma), run.history.value
    velocity = (x - x0) * (1 / sigma)
    run.history.sigma, run.history.value = sigma, velocity
    # The last step returns the estimate itself, as official pipelines and ComfyUI do.
    if sigma_next == 0:
        return Stepped(x0, x0)
    x = x0 + (x - x0) * (sigma_next / sigma)
    if last is not None:
        x = x + (velocity - last) * ((gamma - 1) * (sigma_next - sigma))
    return Stepped(x, x0)


def _extrapolate(
    run: SamplerRun,
    x: AVLatent,
    sigma: float,
    sigma_next: float,
    weight: Callable[[float, float], float],
) -> Stepped:
    """An Euler step, plus ``weight(h, h_last)`` times the change of x0 since the previous step.

    h is the length of the step in ``-ln(sigma)``, h_last that of the previous step. Without a previous step,
    and for a step to 0, it is a plain Euler step.
    """
    x0, last = run.denoise(x, sigma), run.history
    x = x0 + (x - x0) * (sigma_next / sigma)
    # At 0 the logarithmic step is infinite, and the Euler step returns the estimate itself.
    if sigma_next > 0 and last.sigma is not None and last.value is not None:
        h, h_last = math.log(sigma / sigma_next), math.log(last.sigma / sigma)
        x = x + (x0 - last.value) * weight(h, h_last)
    run.history.sigma, run.history.value = sigma, x0
    return Stepped(x, x0)
