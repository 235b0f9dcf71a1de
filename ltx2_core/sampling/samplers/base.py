"""What all samplers share: their signature, what they remember, how they draw noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from ...types import AVLatent, Denoise, OnStep
from ..noise import make_noise
from ..schedules import validate_sigmas

Keep = Callable[[AVLatent], AVLatent]


class Estimates(NamedTuple):
    """The guided clean estimate and that of the negative prompt alone."""

    x0: AVLatent
    negative: AVLatent


@runtime_checkable
class PairDenoise(Protocol):
    """A denoiser that also tells what the negative prompt alone would give, as CFG++ wants."""

    def pair(self, x: AVLatent, sigma: float) -> Estimates: ...


@dataclass
class History:
    """What a multistep sampler knows of the step before: its sigma, and its x0 or velocity.

    Give the same object to both parts of a split schedule, and the second goes on as if there were no split;
    without it the first step of each part is an Euler step.
    """

    sigma: float | None = None
    value: AVLatent | None = None


class Sampler(Protocol):
    """One entry of ``SAMPLERS``.

    ``generator`` gives the noise that a sampler adds on the way, and ``keep`` is applied after adding it: the
    official pipelines blend kept content back in there. A deterministic sampler ignores both. ``history`` is
    what multistep samplers start from and leave behind.
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
        history: History | None = None,
    ) -> AVLatent: ...


def steps(sigmas: Tensor) -> Iterator[tuple[int, float, float]]:
    """(number from 1, sigma, next sigma) of each step of a whole or partial schedule."""
    validate_sigmas(sigmas, partial=True)
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas.tolist()), start=1):
        yield step, sigma, sigma_next


def draw(x: AVLatent, generator: torch.Generator | None) -> AVLatent:
    """Unit noise for ``x``, on its device and in its dtype."""
    assert generator is not None
    return make_noise(x, generator).zip(x, lambda noise, like: noise.to(like))


def need_generator(eta: float, generator: torch.Generator | None) -> None:
    """Raise ValueError if noise is to be added and nothing is there to draw it from."""
    if eta > 0 and generator is None:
        raise ValueError(f"eta={eta} adds noise at every step and needs a generator: pass one, or eta=0")
