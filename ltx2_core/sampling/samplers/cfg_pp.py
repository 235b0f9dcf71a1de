"""CFG++ (Chung et al. 2024, arXiv 2406.08070): towards x0, noised as the negative prompt sees it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...types import AVLatent, Denoise, OnStep
from .base import History, Keep, PairDenoise, draw, need_generator, steps


@torch.inference_mode()
def sample_euler_ancestral_cfg_pp(
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
    """Steps ``(1 - t) x0 + t n``: n is what the negative prompt takes for the noise, renewed by ``eta``.

    ``denoise`` must be a :class:`PairDenoise`, which costs the pass of the negative prompt at every step. The
    last step returns x0. Raises ValueError for another denoiser, and for ``eta`` without ``generator``.
    """
    if not isinstance(denoise, PairDenoise):
        raise ValueError("CFG++ needs the estimate of the negative prompt: use a Denoiser, which has pair()")
    need_generator(eta, generator)
    x = x.to(dtype=torch.float32)
    for step, sigma, sigma_next in steps(sigmas):
        x0, negative = denoise.pair(x, sigma)
        if sigma_next == 0:
            x = x0
        else:
            fresh = cfg_pp_step(sigma, sigma_next, eta)
            noise = (x - negative * (1 - sigma)) * (math.sqrt(1 - fresh**2) / sigma)
            if fresh > 0:
                noise = noise + draw(x, generator) * (fresh * noise_scale)
            x = x0 * (1 - sigma_next) + noise * sigma_next
            x = x if keep is None else keep(x)
        if on_step is not None:
            on_step(step, len(sigmas) - 1, x0)
    return x


@torch.inference_mode()
def sample_euler_cfg_pp(
    denoise: Denoise,
    x: AVLatent,
    sigmas: Tensor,
    on_step: OnStep | None = None,
    *,
    generator: torch.Generator | None = None,
    keep: Keep | None = None,
    history: History | None = None,
) -> AVLatent:
    """CFG++ without fresh noise."""
    return sample_euler_ancestral_cfg_pp(denoise, x, sigmas, on_step, keep=keep, eta=0.0)


def cfg_pp_step(sigma: float, sigma_next: float, eta: float) -> float:
    """The share of fresh noise, from 0 to 1, in the noise of the next state; ``sigma_next`` above 0.

    The ancestral split of ``sigma / (1 - sigma)``, written so that it has its limit ``eta`` at sigma 1.
    """
    ratio = sigma_next * (1 - sigma) / (sigma * (1 - sigma_next))
    return min(1.0, eta * math.sqrt(max(0.0, 1 - ratio**2)))
