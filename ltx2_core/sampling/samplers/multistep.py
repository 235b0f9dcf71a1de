"""Second order at one evaluation a step: what the step before has seen is used again.

Time is ``-ln(sigma)`` and h its step, in which ``dx = x0 - x``: an Euler step in sigma is exact for an x0
that stands still, and a second-order method adds a weight of how much x0 has moved. The first step and the
one that ends in 0 are Euler steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ...types import AVLatent, Denoise, OnStep
from .base import History, Keep, steps
from .res_2s import phi2


@torch.inference_mode()
def sample_dpmpp_2m(
    denoise: Denoise,
    x: AVLatent,
    sigmas: Tensor,
    on_step: OnStep | None = None,
    *,
    generator: torch.Generator | None = None,
    keep: Keep | None = None,
    history: History | None = None,
) -> AVLatent:
    """DPM-Solver++ (2M) of Lu et al. 2022 (arXiv 2211.01095), in -ln(sigma) as ComfyUI takes it."""
    return _extrapolating(
        denoise, x, sigmas, on_step, history, lambda h, before: -math.expm1(-h) * h / (2 * before)
    )


@torch.inference_mode()
def sample_res_multistep(
    denoise: Denoise,
    x: AVLatent,
    sigmas: Tensor,
    on_step: OnStep | None = None,
    *,
    generator: torch.Generator | None = None,
    keep: Keep | None = None,
    history: History | None = None,
) -> AVLatent:
    """Refined exponential solver, multistep (Zhang et al. 2023, arXiv 2308.02157)."""
    return _extrapolating(denoise, x, sigmas, on_step, history, lambda h, before: phi2(-h) * h * h / before)


@torch.inference_mode()
def sample_gradient_estimation(
    denoise: Denoise,
    x: AVLatent,
    sigmas: Tensor,
    on_step: OnStep | None = None,
    *,
    generator: torch.Generator | None = None,
    keep: Keep | None = None,
    history: History | None = None,
    gamma: float = 2.0,
) -> AVLatent:
    """Euler steps along ``gamma v + (1 - gamma) v_before`` (Permenter and Yuan 2023, arXiv 2306.04848).

    ``gamma`` 1 is plain Euler. First order; it pays at few steps.
    """
    x, history = x.to(dtype=torch.float32), history or History()
    for step, sigma, sigma_next in steps(sigmas):
        x0 = denoise(x, sigma)
        velocity = (x - x0) * (1 / sigma)
        if sigma_next == 0:
            x = x0
        else:
            x = x0 + (x - x0) * (sigma_next / sigma)
            if history.value is not None:
                x = x + (velocity - history.value) * ((gamma - 1) * (sigma_next - sigma))
        history.sigma, history.value = sigma, velocity
        if on_step is not None:
            on_step(step, len(sigmas) - 1, x0)
    return x


def _extrapolating(
    denoise: Denoise,
    x: AVLatent,
    sigmas: Tensor,
    on_step: OnStep | None,
    history: History | None,
    weight: Callable[[float, float], float],
) -> AVLatent:
    """Euler steps plus ``weight(h, h of the step before)`` of the change of x0."""
    x, history = x.to(dtype=torch.float32), history or History()
    for step, sigma, sigma_next in steps(sigmas):
        x0 = denoise(x, sigma)
        x = x0 + (x - x0) * (sigma_next / sigma)
        if sigma_next > 0 and history.sigma is not None and history.value is not None:
            h, before = math.log(sigma / sigma_next), math.log(history.sigma / sigma)
            x = x + (x0 - history.value) * weight(h, before)
        history.sigma, history.value = sigma, x0
        if on_step is not None:
            on_step(step, len(sigmas) - 1, x0)
    return x
