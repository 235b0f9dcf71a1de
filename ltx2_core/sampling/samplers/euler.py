"""Euler steps of the rectified-flow ODE, plain and ancestral."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ...types import AVLatent, Denoise, OnStep
from .base import History, Keep, draw, need_generator, steps


@torch.inference_mode()
def sample_euler(
    denoise: Denoise,
    x: AVLatent,
    sigmas: Tensor,
    on_step: OnStep | None = None,
    *,
    generator: torch.Generator | None = None,
    keep: Keep | None = None,
    history: History | None = None,
) -> AVLatent:
    """Euler steps of the rectified-flow ODE ``dx/dsigma = (x - x0) / sigma``; adds no noise."""
    x = x.to(dtype=torch.float32)
    for step, sigma, sigma_next in steps(sigmas):
        x0 = denoise(x, sigma)
        x = x0 + (x - x0) * (sigma_next / sigma)
        if on_step is not None:
            on_step(step, len(sigmas) - 1, x0)
    return x


@torch.inference_mode()
def sample_euler_ancestral(
    denoise: Denoise,
    x: AVLatent,
    sigmas: Tensor,
    on_step: OnStep | None = None,
    *,
    generator: torch.Generator | None = None,
    keep: Keep | None = None,
    history: History | None = None,
    eta: float = 1.0,
    noise_scale: float = 1.0,
) -> AVLatent:
    """Euler steps that go below the next sigma and come back with fresh noise, for rectified flow.

    ``eta`` 0 is plain Euler and adds no noise; 1 renews the most and needs a ``generator``.
    """
    need_generator(eta, generator)
    x = x.to(dtype=torch.float32)
    for step, sigma, sigma_next in steps(sigmas):
        x0 = denoise(x, sigma)
        c = ancestral_step(sigma, sigma_next, eta)
        x = x0 + (x - x0) * (c.down / sigma)
        if c.noise > 0:
            x = x * c.alpha + draw(x, generator) * (c.noise * noise_scale)
            x = x if keep is None else keep(x)
        if on_step is not None:
            on_step(step, len(sigmas) - 1, x0)
    return x


class AncestralStep(NamedTuple):
    """Coefficients of one step: the sigma to go ``down`` to, the factor ``alpha``, the ``noise`` to add."""

    down: float
    alpha: float
    noise: float


def ancestral_step(sigma: float, sigma_next: float, eta: float) -> AncestralStep:
    """Coefficients that leave signal ``1 - sigma_next`` and noise ``sigma_next`` in distribution."""
    down = sigma_next * (1 + (sigma_next / sigma - 1) * eta)
    if eta == 0 or sigma_next == 0:
        return AncestralStep(down=down, alpha=1.0, noise=0.0)
    alpha = (1 - sigma_next) / (1 - down)
    return AncestralStep(
        down=down, alpha=alpha, noise=math.sqrt(max(0.0, sigma_next**2 - (down * alpha) ** 2))
    )
