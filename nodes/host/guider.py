"""The library's guidance as the host's GUIDER: passes in one batch where memory allows, scales per stream."""

from __future__ import annotations

from typing import Any

import comfy.samplers
from torch import Tensor

from ...ltx2_core.sampling.guidance import GuidanceAt, Nag, Pass
from .network import NAG, PERTURBATIONS, HostTransformer
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
        self._guidance, self._nag = guidance, nag

    def predict_noise(
        self,
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any] = {},  # noqa: B006 the host's signature; it is only read
        seed: int | None = None,
    ) -> Tensor:
        """The guided clean estimate of ``x``, as the host's guiders give it."""
        guidance = self._guidance.at(float(timestep[0]))
        packing = Packing.of(self.conds)
        needed = {*guidance.passes(audio=packing.has_both)}
        if not packing.has_both:
            needed.discard(Pass.APART)
        if model_options.get("disable_cfg1_optimization", False):
            needed.add(Pass.NEGATIVE)
        passes = [which for which in Pass if which in needed]
        perturbations = tuple(guidance.perturbation(which) for which in passes)
        options = {**model_options.get("transformer_options", {}), PERTURBATIONS: perturbations}
        if self._nag is not None:
            options[NAG] = (self._nag, self.conds["negative"][0]["model_conds"]["c_crossattn"].cond)
        estimates = comfy.samplers.calc_cond_batch(
            self.inner_model,
            [self._conds_of(which) for which in passes],
            x,
            timestep,
            {**model_options, "transformer_options": options},
        )
        found = dict(zip(passes, estimates, strict=True))
        guided = packing.pack(guidance.combine({which: packing.unpack(e) for which, e in found.items()}))
        return self._after(guided, found, x, timestep, model_options)

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
