"""Samplers: loops over sigmas that know nothing of the model, the schedule or the guidance.

All of them take ``denoise(x, sigma)``, the state ``x`` at ``sigmas[0]`` (float32, both streams) and falling
``sigmas`` (N + 1,), and return the state at ``sigmas[-1]``. A schedule may be split: run the first part, then
the second on its result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..types import AVLatent, Denoise, OnStep
from .noise import make_noise
from .schedules import validate_sigmas

Keep = Callable[[AVLatent], AVLatent]


class Sampler(Protocol):
    """One entry of :data:`SAMPLERS`.

    ``generator`` gives the noise that a sampler adds on the way, and ``keep`` is applied after adding it: the
    official pipelines blend kept content back in there. A deterministic sampler ignores both.
    """

    def __call__(
        self,
        denoise: Denoise,
        x: AVLatent,
        sigmas: Tensor,
        on_step: OnStep | None = None,
        *,
        generator: torch.Generator | None = None,
        keep: Keep | None = None,
    ) -> AVLatent: ...


@torch.inference_mode()
def sample_euler(
    denoise: Denoise,
    x: AVLatent,
    sigmas: Tensor,
    on_step: OnStep | None = None,
    *,
    generator: torch.Generator | None = None,
    keep: Keep | None = None,
) -> AVLatent:
    """Euler steps of the rectified-flow ODE ``dx/dsigma = (x - x0) / sigma``; adds no noise."""
    x = x.to(dtype=torch.float32)
    for step, sigma, sigma_next in _steps(sigmas):
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
    eta: float = 1.0,
    noise_scale: float = 1.0,
) -> AVLatent:
    """Euler steps that go below the next sigma and come back with fresh noise, for rectified flow.

    ``eta`` 0 is plain Euler and adds no noise; 1 renews the most and needs a ``generator``.
    """
    if eta > 0 and generator is None:
        raise ValueError(f"eta={eta} adds noise at every step and needs a generator: pass one, or eta=0")
    x = x.to(dtype=torch.float32)
    for step, sigma, sigma_next in _steps(sigmas):
        x0 = denoise(x, sigma)
        c = ancestral_step(sigma, sigma_next, eta)
        x = x0 + (x - x0) * (c.down / sigma)
        if c.noise > 0:
            assert generator is not None
            noise = make_noise(x, generator).zip(x, lambda n, like: n.to(like.device))
            x = x * c.alpha + noise * (c.noise * noise_scale)
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


def _steps(sigmas: Tensor) -> Iterator[tuple[int, float, float]]:
    validate_sigmas(sigmas, partial=True)
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas.tolist()), start=1):
        yield step, sigma, sigma_next


SAMPLERS: dict[str, Sampler] = {"euler": sample_euler, "euler_ancestral": sample_euler_ancestral}
