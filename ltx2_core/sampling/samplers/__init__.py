"""Samplers: loops over sigmas, independent of the model, the schedule and the guidance.

All of them take ``denoise(x, sigma)``, the state ``x`` at ``sigmas[0]`` (float32, both streams) and falling
``sigmas`` (N + 1,), and return the state at ``sigmas[-1]``. A schedule may be split: run the first part, then
the second on its result, with the same generator and the same :class:`History`.

To add one, write a function of one step, decorate it with ``@sampler(name)`` and list it in ``SAMPLERS``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from .base import Estimates, History, PairDenoise, Preserve, Sampler, sampler
from .cfg_pp import cfg_pp_step, sample_euler_ancestral_cfg_pp, sample_euler_cfg_pp
from .euler import AncestralStep, ancestral_step, sample_euler, sample_euler_ancestral, sample_lcm
from .multistep import sample_dpmpp_2m, sample_gradient_estimation, sample_res_multistep
from .res_2s import Res2sStep, SdeStep, res_2s_step, sample_res_2s, sde_step

SAMPLERS: Final[dict[str, Sampler]] = {
    one.name: one
    for one in (
        sample_euler,
        sample_euler_ancestral,
        sample_euler_cfg_pp,
        sample_euler_ancestral_cfg_pp,
        sample_gradient_estimation,
        sample_dpmpp_2m,
        sample_res_multistep,
        sample_res_2s,
        sample_lcm,
    )
}
"""By name, in the order in which the command line and the nodes list them."""

STOCHASTIC: Final = {name: one.eta for name, one in SAMPLERS.items() if one.eta is not None}
"""The samplers that add noise during sampling, with their usual eta; 0 makes each deterministic."""

PAIRED: Final = frozenset(name for name, one in SAMPLERS.items() if one.paired)
"""The samplers that evaluate the negative prompt at every step, whatever the guidance."""

EVALUATIONS: Final = {name: one.evaluations for name, one in SAMPLERS.items() if one.evaluations != 1}
"""Evaluations of the denoiser in a step, where that is not 1."""


def get_sampler(name: str, *, eta: float | None = None) -> Sampler:
    """The sampler ``name``; ``eta`` in [0, 1] replaces its share of fresh noise, None is its default.

    Raises ValueError for an unknown name, for an ``eta`` outside of [0, 1], and for an ``eta`` of a sampler
    that adds no noise.
    """
    if name not in SAMPLERS:
        raise ValueError(f"sampler {name!r} is unknown; use one of {', '.join(SAMPLERS)}")
    if eta is None:
        return SAMPLERS[name]
    if name not in STOCHASTIC:
        raise ValueError(
            f"eta={eta:g} has no meaning for {name}, which adds no noise; leave it out or use one of "
            f"{', '.join(STOCHASTIC)}"
        )
    if not 0 <= eta <= 1:
        raise ValueError(f"eta={eta:g} must be in [0, 1]: 0 adds no noise, 1 the most")
    return replace(SAMPLERS[name], eta=eta)


__all__ = [
    "EVALUATIONS",
    "PAIRED",
    "SAMPLERS",
    "STOCHASTIC",
    "AncestralStep",
    "Estimates",
    "History",
    "PairDenoise",
    "Preserve",
    "Res2sStep",
    "Sampler",
    "SdeStep",
    "ancestral_step",
    "cfg_pp_step",
    "get_sampler",
    "res_2s_step",
    "sample_dpmpp_2m",
    "sample_euler",
    "sample_euler_ancestral",
    "sample_euler_ancestral_cfg_pp",
    "sample_euler_cfg_pp",
    "sample_gradient_estimation",
    "sample_lcm",
    "sample_res_2s",
    "sample_res_multistep",
    "sampler",
    "sde_step",
]
