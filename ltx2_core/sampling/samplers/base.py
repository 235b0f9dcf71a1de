"""What all samplers share: the loop over the sigmas, its checks, fresh noise and the history of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from ...types import AVLatent, Denoise, OnStep
from ..noise import make_noise
from ..schedules import validate_sigmas

Preserve = Callable[[AVLatent], AVLatent]
"""Blends the content that a mask preserves back into a state."""


class Estimates(NamedTuple):
    """The guided estimate ``x0`` of the clean latent, and ``negative``, that of the negative prompt alone."""

    x0: AVLatent
    negative: AVLatent


@runtime_checkable
class PairDenoise(Protocol):
    """A denoiser that also returns the clean estimate of the negative prompt alone, which CFG++ needs."""

    def pair(self, x: AVLatent, sigma: float) -> Estimates: ...


@dataclass
class History:
    """The previous step of a multistep sampler: its ``sigma``, and as ``value`` its x0 or velocity.

    Both are None before the first step, which is then an Euler step. Pass the same object to both parts of a
    split schedule to get the result of the whole schedule.
    """

    sigma: float | None = None
    value: AVLatent | None = None


class Stepped(NamedTuple):
    """The state ``x`` after a step, and the clean estimate ``x0`` of the step, for previews."""

    x: AVLatent
    x0: AVLatent


@dataclass(frozen=True)
class SamplerRun:
    """What the steps of a sampler use in one run.

    ``denoise`` predicts x0. ``generator`` draws fresh noise, None where none is needed. ``preserve`` puts
    back the content that a mask preserves. ``history`` is the previous step. ``noise_by_token`` is the
    ``by_token`` of :func:`make_noise` for fresh noise.
    """

    denoise: Denoise
    generator: torch.Generator | None
    preserve: Preserve
    history: History
    noise_by_token: bool = False

    def pair(self, x: AVLatent, sigma: float) -> Estimates:
        """The guided x0 of ``x``, and that of the negative prompt alone.

        Raises ValueError if the denoiser is no :class:`PairDenoise`.
        """
        if not isinstance(self.denoise, PairDenoise):
            raise ValueError(
                "CFG++ needs the estimate of the negative prompt: use a Denoiser, which has pair()"
            )
        return self.denoise.pair(x, sigma)

    def noise(self, x: AVLatent) -> AVLatent:
        """Fresh unit Gaussian noise like ``x``; raises ValueError if there is no generator."""
        if self.generator is None:
            raise ValueError("a step that adds noise needs a generator: pass one, or eta=0")
        # Drawn where the generator is, by default on the CPU, and then moved: every device gets the same
        # noise. The driver has copied memory of the host before it returns, so that nothing has to wait.
        noise = make_noise(x, self.generator, by_token=self.noise_by_token)
        return noise.zip(x, lambda noise, like: noise.to(like, non_blocking=True))


@dataclass(frozen=True, eq=False, kw_only=True)
class Sampler:
    """One entry of ``SAMPLERS``: a loop over sigmas that calls ``step`` for each.

    ``step(run, x, sigma, sigma_next, **options)`` holds the maths of one step. ``eta`` is the default share
    of fresh noise, None for samplers that add none. ``paired`` samplers need a :class:`PairDenoise`, and so
    the guidance pass of the negative prompt at every step. ``evaluations`` is how often a step calls the
    denoiser.
    """

    name: str
    step: Callable[..., Stepped]
    eta: float | None = None
    paired: bool = False
    evaluations: int = 1

    def __post_init__(self) -> None:
        # help(sample_euler) describes the sampler and not this class.
        object.__setattr__(self, "__doc__", self.step.__doc__)

    # Samplers never need gradients, and a graph over all steps would not fit in memory.
    @torch.inference_mode()
    def __call__(
        self,
        denoise: Denoise,
        x: AVLatent,
        sigmas: Tensor,
        on_step: OnStep | None = None,
        *,
        generator: torch.Generator | None = None,
        preserve: Preserve | None = None,
        history: History | None = None,
        noise_by_token: bool = False,
        **options: float,
    ) -> AVLatent:
        """The state at ``sigmas[-1]``, float32, from ``x`` at ``sigmas[0]``; ``sigmas`` (N + 1,) fall.

        ``denoise`` predicts x0. ``on_step`` is called after each step with the number of finished steps, that
        of all steps, and x0. ``generator`` draws the noise of samplers that add some. ``preserve`` is applied
        after noise was added, where the official pipelines restore the content that a mask preserves.
        ``history`` is read and updated by multistep samplers; None is a fresh one. ``noise_by_token`` draws
        noise in the order of the official pipelines. ``options`` are those of the sampler, such as ``eta``.

        Raises ValueError for sigmas that do not fall, and for ``eta`` above 0 without ``generator``.
        """
        # A schedule may be split between two calls, of which the first ends above 0.
        validate_sigmas(sigmas, partial=True)
        if self.eta is not None:
            eta = options.setdefault("eta", self.eta)
            if eta > 0 and generator is None:
                raise ValueError(
                    f"eta={eta} adds noise at every step and needs a generator: pass one, or eta=0"
                )
        run = SamplerRun(denoise, generator, preserve or _unchanged, history or History(), noise_by_token)
        # Rounding the state to the model's dtype after each step would accumulate.
        x, steps = x.to(dtype=torch.float32), len(sigmas) - 1
        for number, (sigma, sigma_next) in enumerate(pairwise(sigmas.tolist()), start=1):
            x, x0 = self.step(run, x, sigma, sigma_next, **options)
            if on_step is not None:
                on_step(number, steps, x0)
        return x


def sampler(
    name: str, *, eta: float | None = None, paired: bool = False, evaluations: int = 1
) -> Callable[[Callable[..., Stepped]], Sampler]:
    """Decorator that makes a :class:`Sampler` of a function that computes one step.

    ``eta`` is the default share of fresh noise (None: adds none), ``paired`` whether each step needs the
    estimate of the negative prompt, ``evaluations`` how often a step calls the denoiser.
    """

    def decorate(step: Callable[..., Stepped]) -> Sampler:
        return Sampler(name=name, step=step, eta=eta, paired=paired, evaluations=evaluations)

    return decorate


def _unchanged(x: AVLatent) -> AVLatent:
    return x
