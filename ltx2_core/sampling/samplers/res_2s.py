"""Second order at two evaluations per step, with fresh noise: the sampler of the official HQ pipeline.

A refined exponential solver (Zhang et al. 2023, arXiv 2308.02157) in ``-ln(sigma)`` with its second
evaluation half way. The state is float64 within a step and float32 between steps.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ...precision import NO_FLOAT64
from ...types import AVLatent
from .base import SamplerRun, Stepped, sampler

HALF = 0.5
LAST_SIGMA = 0.0011
"""Where the last step ends, as in the official pipeline, since -ln(sigma) is infinite at 0."""
SUBSTEP_ETA = 0.5


@sampler("res_2s", eta=0.5, evaluations=2)
def sample_res_2s(
    run: SamplerRun,
    x: AVLatent,
    sigma: float,
    sigma_next: float,
    *,
    eta: float,
    substep_eta: float | None = None,
) -> Stepped:
    """One step of second order: an evaluation at ``sigma`` and another at the middle in -ln(sigma).

    ``eta`` is the share of the noise that is replaced by fresh noise after the step, ``substep_eta`` that at
    the half-way point, by default 0.5 as in the official pipeline, or 0 if ``eta`` is 0. A step to 0 has no
    half-way point: it goes to 0.0011 and returns the x0 of a third evaluation there.
    """
    if substep_eta is None:
        substep_eta = SUBSTEP_ETA if eta > 0 else 0.0
    target = sigma_next if sigma_next > 0 else LAST_SIGMA
    # A schedule may itself end at or below this sigma, which leaves only the last evaluation.
    if target < sigma:
        c = res_2s_step(sigma, target)
        start = _double(x)
        x0 = run.denoise(x, sigma)
        middle = start + (x0 - start) * (c.h * c.a21)
        # The first of the two draws of a step: in another order the same seed would give another clip.
        middle = _renoise(run, start, middle, sigma, c.sigma, substep_eta)
        # The conditions are those of the official loop. Without noise the anchor is the start itself.
        if substep_eta > 0 and c.h < 0.5 and sigma > 0.03:
            start = _anchor(middle, x0, c.h * c.a21)
        # Models take float32 latents; the step itself is float64.
        second = run.denoise(middle.to(dtype=torch.float32), c.sigma)
        end = start + (x0 - start) * (c.h * c.b1) + (second - start) * (c.h * c.b2)
        x = _renoise(run, start, end, sigma, target, eta).to(dtype=torch.float32)
        sigma = target
    if sigma_next == 0:
        x = x0 = run.denoise(x, sigma)
    return Stepped(x, x0)


class Res2sStep(NamedTuple):
    """Coefficients of one step of res_2s.

    ``h`` is its length in -ln(sigma), ``sigma`` the noise level of its second evaluation. Before that the
    state x moves by h a21 (x0 - x), x0 being the first estimate. The whole step adds h b1 (x0 - x) of the
    first estimate and h b2 (x0 - x) of the second.
    """

    h: float
    sigma: float
    a21: float
    b1: float
    b2: float


def res_2s_step(sigma: float, sigma_next: float) -> Res2sStep:
    """Coefficients of a res_2s step from noise level ``sigma`` to ``sigma_next``, both above 0."""
    h = math.log(sigma / sigma_next)
    b2 = phi2(-h) / HALF
    return Res2sStep(
        h=h, sigma=math.sqrt(sigma * sigma_next), a21=HALF * phi1(-h * HALF), b1=phi1(-h) - b2, b2=b2
    )


class SdeStep(NamedTuple):
    """Coefficients to replace noise of a state by fresh noise: ``alpha (x0 + down v) + noise n``.

    x0 is the clean latent estimated from the state, and v the state's velocity, so that ``x0 + down v`` has
    noise level ``down``; n is noise of variance 1.
    """

    noise: float
    alpha: float
    down: float


def sde_step(sigma_next: float, eta: float) -> SdeStep:
    """Coefficients to renew noise in a state at noise level ``sigma_next``.

    ``eta`` in [0, 1] is the share of fresh noise; 0 changes nothing.
    """
    # The official limit: at sigma 1 and eta 1, alpha would be 0 and down undefined.
    noise = min(eta, 0.9999) * sigma_next
    left = math.sqrt(sigma_next**2 - noise**2)
    alpha = 1 - sigma_next + left
    return SdeStep(noise=noise, alpha=alpha, down=left / alpha)


def phi1(z: float) -> float:
    """phi_1 of exponential integrators, (e^z - 1) / z; 1 at 0."""
    # The difference e^z - 1 loses its digits near 0.
    return math.expm1(z) / z if z else 1.0


def phi2(z: float) -> float:
    """phi_2 of exponential integrators, (e^z - 1 - z) / z²; 1/2 at 0, and near 0 computed by its series."""
    return (phi1(z) - 1) / z if abs(z) > 1e-4 else 0.5 + z / 6 + z * z / 24


def _renoise(
    run: SamplerRun, start: AVLatent, end: AVLatent, sigma: float, sigma_next: float, eta: float
) -> AVLatent:
    """The state ``end`` with the share ``eta`` of its noise replaced by fresh noise.

    A step from ``sigma`` to ``sigma_next`` led from the state ``start`` to ``end``; their difference is the
    velocity by which ``end`` is split into clean latent and noise.
    """
    if eta == 0:
        return end
    c = sde_step(sigma_next, eta)
    direction = (start - end) * (1 / (sigma - sigma_next))
    clean = start - direction * sigma
    noise = run.noise(end).map(_standardised)
    # The official loop restores preserved content after each injection of noise.
    return run.preserve((clean + direction * c.down) * c.alpha + noise * c.noise)


def _anchor(middle: AVLatent, x0: AVLatent, weight: float) -> AVLatent:
    """The start from which a step of ``weight (x0 - start)`` ends exactly at ``middle``.

    ``weight`` is a fraction of the way to ``x0``. The official loop repeats ``start = middle - weight (x0 -
    start)`` a hundred times; this is its limit.
    """
    return (middle - x0 * weight) * (1 / (1 - weight))


def _standardised(noise: Tensor) -> Tensor:
    """Noise (B, ...) with mean 0 and standard deviation 1 in each sample, as in the official pipeline."""
    axes = tuple(range(1, noise.ndim))
    return (noise - noise.mean(dim=axes, keepdim=True)) / noise.std(dim=axes, keepdim=True)


def _double(x: AVLatent) -> AVLatent:
    """``x`` in float64, or unchanged on a device that has no float64."""
    return x.map(lambda t: t if t.device.type in NO_FLOAT64 else t.double())
