"""Samplers: loops over sigmas that know nothing of the model, the schedule or the guidance.

All of them take ``denoise(x, sigma)``, the state ``x`` at ``sigmas[0]`` (float32, both streams) and falling
``sigmas`` (N + 1,), and return the state at ``sigmas[-1]``. A schedule may be split: run the first part, then
the second on its result, with the same generator and the same :class:`History`.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from .base import Estimates, History, Keep, PairDenoise, Sampler
from .cfg_pp import cfg_pp_step, sample_euler_ancestral_cfg_pp, sample_euler_cfg_pp
from .euler import AncestralStep, ancestral_step, sample_euler, sample_euler_ancestral
from .multistep import sample_dpmpp_2m, sample_gradient_estimation, sample_res_multistep
from .res_2s import Res2sStep, SdeStep, res_2s_step, sample_res_2s, sde_step

SAMPLERS: Final[dict[str, Sampler]] = {
    "euler": sample_euler,
    "euler_ancestral": sample_euler_ancestral,
    "euler_cfg_pp": sample_euler_cfg_pp,
    "euler_ancestral_cfg_pp": sample_euler_ancestral_cfg_pp,
    "gradient_estimation": sample_gradient_estimation,
    "dpmpp_2m": sample_dpmpp_2m,
    "res_multistep": sample_res_multistep,
    "res_2s": sample_res_2s,
}

STOCHASTIC: Final = {"euler_ancestral": 1.0, "euler_ancestral_cfg_pp": 1.0, "res_2s": 0.5}
"""The samplers that add noise on the way, with their usual eta; 0 makes each deterministic."""

PAIRED: Final = frozenset({"euler_cfg_pp", "euler_ancestral_cfg_pp"})
"""The samplers that evaluate the negative prompt at every step, whatever the guidance."""

EVALUATIONS: Final = {"res_2s": 2}
"""Evaluations of the denoiser in a step, where that is not 1."""


def get_sampler(name: str, *, eta: float | None = None) -> Sampler:
    """A sampler by name, with ``eta`` in [0, 1] for those that add noise. Raises ValueError otherwise."""
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
    sampler: Any = SAMPLERS[name]
    return partial(sampler, eta=eta)


__all__ = [
    "EVALUATIONS",
    "PAIRED",
    "SAMPLERS",
    "STOCHASTIC",
    "AncestralStep",
    "Estimates",
    "History",
    "Keep",
    "PairDenoise",
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
    "sample_res_2s",
    "sample_res_multistep",
    "sde_step",
]
