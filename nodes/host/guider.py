"""The library's guidance as the host's GUIDER: passes in one batch where memory allows, scales per stream."""

from __future__ import annotations

from typing import Any

import comfy.samplers
from torch import Tensor

from ...ltx2_core.sampling.guidance import Guidance, GuidanceAt, Nag, Pass
from ...ltx2_core.sampling.schedules import step_of
from ...ltx2_core.sampling.skipping import Skipping
from .forking import FORK, Fork, Late
from .network import NAG, PERTURBATIONS, TILES, HostTransformer
from .streams import Packing


class AVGuider(comfy.samplers.CFGGuider):
    """Guides video and audio each by its own scales; works with any of the host's samplers.

    The host decides how many passes one call of the model evaluates, by the memory there is.
    """

    def __init__(self, model: Any, guidance: GuidanceAt, nag: Nag | None = None) -> None:
        """Raises ValueError if the model is of the host's own network and cannot be guided so."""
        super().__init__(model)
        if "sampler_cfg_function" in model.model_options:
            raise ValueError(
                "this model has a guidance of its own from another node: take that node out, or use CFGGuider"
            )
        passes = guidance.passes()
        ours = isinstance(model.model.diffusion_model, HostTransformer)
        if not ours and (nag is not None or {Pass.PERTURBED, Pass.APART} & {*passes}):
            raise ValueError(
                "stg, modality guidance and nag need the model of LTX-2 Load Checkpoint or LTX-2 Load All: "
                "connect that, or set stg 0, modality 1 and nag_scale 1"
            )
        if nag is not None and Pass.NEGATIVE in passes:
            raise ValueError("nag takes the place of cfg: set cfg to 1 in both streams, or nag_scale to 1")
        self._guidance, self._nag, self._skipping = guidance, nag, Skipping()

    def predict_noise(
        self,
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any] = {},  # noqa: B006 the host's signature; it is only read
        seed: int | None = None,
    ) -> Tensor:
        """The guided clean estimate of ``x``, as the host's guiders give it."""
        sigma = float(timestep[0])
        guidance = self._guidance.at(sigma)
        packing = Packing.of(self.conds)
        schedule = model_options.get("transformer_options", {}).get("sample_sigmas")
        step = 0 if schedule is None else step_of(schedule, sigma)
        skipped = self._skipping.streams(guidance, step)
        if all(skipped[: 1 + packing.has_both]):
            guided, negative = self._skipping.join(None, skipped)
            found = {Pass.CONDITIONAL: guided, Pass.NEGATIVE: negative}
        else:
            passes = self._passes(guidance, packing, skipped, model_options)
            estimates = self._evaluate(guidance, passes, x, timestep, model_options)
            found = {which: packing.unpack(estimate) for which, estimate in estimates.items()}
            made = (guidance.combine(found), found.get(Pass.NEGATIVE, found[Pass.CONDITIONAL]))
            guided, negative = self._skipping.join(made, skipped)
            if Pass.NEGATIVE in found:
                found[Pass.NEGATIVE] = negative
        packed = {which: packing.pack(estimate) for which, estimate in found.items()}
        return self._after(packing.pack(guided), packed, x, timestep, model_options)

    def _passes(
        self,
        guidance: Guidance,
        packing: Packing,
        skipped: tuple[bool, bool],
        model_options: dict[str, Any],
    ) -> list[Pass]:
        """What has to be evaluated for the streams that are not skipped."""
        needed = {*guidance.passes(video=not skipped[0], audio=packing.has_both and not skipped[1])}
        if not packing.has_both:
            needed.discard(Pass.APART)
        if model_options.get("disable_cfg1_optimization", False):
            needed.add(Pass.NEGATIVE)
        return [which for which in Pass if which in needed]

    def _evaluate(
        self,
        guidance: Guidance,
        passes: list[Pass],
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any],
    ) -> dict[Pass, Tensor]:
        """The clean estimates of the passes, in as few calls as memory allows.

        On the CPU they go one by one, so that the result does not depend on the memory that is free.
        """
        fork = self._fork(guidance, passes, model_options)
        whole = [which for which in passes if fork is None or which is not Pass.PERTURBED]
        calls = [[which] for which in whole] if x.device.type == "cpu" else [whole]
        options: list[dict[str, Any]] = [
            {} if fork is None or Pass.CONDITIONAL not in call else {FORK: fork} for call in calls
        ]
        if fork is not None:
            calls.append([Pass.PERTURBED])
            options.append({FORK: Late(fork)})
        found: dict[Pass, Tensor] = {}
        for call, more in zip(calls, options, strict=True):
            more |= {PERTURBATIONS: tuple(guidance.perturbation(which) for which in call)}
            if self._nag is not None:
                more[NAG] = (self._nag, self.conds["negative"][0]["model_conds"]["c_crossattn"].cond)
            own = {**model_options.get("transformer_options", {}), **more}
            estimates = comfy.samplers.calc_cond_batch(
                self.inner_model,
                [self._conds_of(which) for which in call],
                x,
                timestep,
                {**model_options, "transformer_options": own},
            )
            found.update(zip(call, estimates, strict=True))
        return found

    def _fork(self, guidance: Guidance, passes: list[Pass], model_options: dict[str, Any]) -> Fork | None:
        """Where the perturbed pass may start; None where other packs or nodes cut a pass into several."""
        if Pass.PERTURBED not in passes or min(guidance.stg_blocks) == 0 or len(self.conds["positive"]) > 1:
            return None
        if {"context_handler", "multigpu_clones", "model_function_wrapper"} & model_options.keys():
            return None
        if TILES in model_options.get("transformer_options", {}):
            return None
        return Fork(min(guidance.stg_blocks), passes.index(Pass.CONDITIONAL))

    def _conds_of(self, which: Pass) -> Any:
        if which is Pass.NEGATIVE:
            return self.conds["negative"]
        positive = self.conds["positive"]
        return [without_reference(entry) for entry in positive] if which is Pass.UNREFERENCED else positive

    def _after(
        self,
        guided: Tensor,
        found: dict[Pass, Tensor],
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any],
    ) -> Tensor:
        """What other nodes and samplers have asked to do with the estimate."""
        for patch in model_options.get("sampler_post_cfg_function", []):
            guided = patch(
                {
                    "denoised": guided,
                    "cond": self.conds["positive"],
                    "uncond": self.conds["negative"] if Pass.NEGATIVE in found else None,
                    "cond_scale": self.cfg,
                    "model": self.inner_model,
                    "uncond_denoised": found.get(Pass.NEGATIVE),
                    "cond_denoised": found[Pass.CONDITIONAL],
                    "sigma": timestep,
                    "model_options": model_options,
                    "input": x,
                }
            )
        return guided


def without_reference(entry: dict[str, Any]) -> dict[str, Any]:
    """A processed conditioning without its reference sound."""
    conds = {name: cond for name, cond in entry.get("model_conds", {}).items() if name != "ref_audio"}
    return {**entry, "model_conds": conds}
