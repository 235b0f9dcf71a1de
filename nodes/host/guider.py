"""The library's guidance as a GUIDER of ComfyUI, which evaluates each guidance pass by ComfyUI's function."""

from __future__ import annotations

from typing import Any

import comfy.samplers
from torch import Tensor

from ...ltx2_core.sampling.guidance import GuidanceAt, Nag, Pass
from ...ltx2_core.sampling.guided_steps import GuidedSteps
from ...ltx2_core.sampling.pass_plan import ActiveStreams, Batching, StepPlan
from .block_calls import block_patches
from .call import NAG, TILES
from .core_guidance import core_switches, with_core_guidance, with_negative_text
from .foreign import patched_parts
from .forking import FORK, Fork, Late
from .latents import check_noise, check_shapes
from .masks import streams_of
from .network import HostTransformer
from .perturbing import PERTURBATIONS
from .streams import Packing
from .values import Options


class AVGuider(comfy.samplers.CFGGuider):
    """A GUIDER of ComfyUI that guides video and audio with separate scales; it works with all samplers."""

    def __init__(self, model: Any, guidance: GuidanceAt, nag: Nag | None = None) -> None:
        """Prepare the guider for ``model``; ``guidance`` has the scales for each noise level.

        ``nag`` has the settings of normalised attention guidance, None if it is off. Raises ValueError if
        another node has set a guidance function in ``model``, if nag is combined with classifier-free
        guidance, if spatio-temporal, modality or normalised attention guidance is used with a network other
        than LTX-2, or if another pack has replaced a part of the network that one of these guidances changes.
        """
        # Such a function replaces the combination of the estimates, which is what this guider computes.
        if "sampler_cfg_function" in model.model_options:
            raise ValueError(
                "this model has a guidance of its own from another node: take that node out, or use CFGGuider"
            )
        passes = {*guidance.passes()}
        _check_parts(model, passes, nag is not None)
        self._hosts = not isinstance(model.model.diffusion_model, HostTransformer)
        if self._hosts:
            # ComfyUI's own network is patched on a clone, so that the MODEL of the graph stays as it was.
            model = with_core_guidance(
                model, stg=Pass.PERTURBED in passes, apart=Pass.APART in passes, nag=nag
            )
        super().__init__(model)
        self.channels: int = model.model.latent_format.latent_channels
        if nag is not None and Pass.NEGATIVE in passes:
            raise ValueError("nag takes the place of cfg: set cfg to 1 in both streams, or nag_scale to 1")
        self._steps, self._nag = GuidedSteps(guidance), nag

    def sample(self, noise: Any, latent_image: Any, *args: Any, **options: Any) -> Any:
        """Sample as ComfyUI's guiders do, with the same arguments.

        Raises ValueError if ``noise`` has another shape than ``latent_image``, or if that is no latent of
        LTX-2.
        """
        # The host packs both streams before a check of the MODEL could see them.
        check_shapes([stream.shape for stream in streams_of(latent_image)], self.channels)
        check_noise(noise, latent_image)
        return super().sample(noise, latent_image, *args, **options)

    def predict_noise(
        self,
        x: Tensor,
        timestep: Tensor,
        model_options: Options = {},  # noqa: B006 the host's signature; it is only read
        seed: int | None = None,
    ) -> Tensor:
        """Return the guided estimate of the clean latent for the noisy latent ``x``.

        ComfyUI calls it at each step. ``x`` and the result are packed: (B, 1, values of video and audio
        together). ``timestep`` (B,) is the noise level; ``seed`` is not read.
        """
        # The shapes of a run are only known once the host has processed its conditioning.
        packing = Packing.of(self.conds)
        # A latent of one stream has no other stream that modality guidance could isolate.
        streams = ActiveStreams(video=True, audio=packing.has_both, both=packing.has_both)
        plan = self._steps.plan(
            float(timestep[0]),
            model_options.get("transformer_options", {}).get("sample_sigmas"),
            streams,
            self._batching(x, model_options),
            negative=model_options.get("disable_cfg1_optimization", False),
        )
        estimates = self._evaluate(plan, x, timestep, model_options)
        x0 = {which: packing.unpack(estimate) for which, estimate in estimates.items()}
        guided, negative = self._steps.combine(plan, x0)
        # At a step without passes the patches get the repeated estimates.
        has_negative = Pass.NEGATIVE in plan.passes or not plan.passes
        return self._after(
            packing.pack(guided),
            estimates.get(Pass.CONDITIONAL, packing.pack(guided)),
            packing.pack(negative) if has_negative else None,
            x,
            timestep,
            model_options,
        )

    def _batching(self, x: Tensor, model_options: Options) -> Batching:
        """Decide how many guidance passes are evaluated in one call of ComfyUI: one or all.

        It is one on the CPU (so that the result does not depend on free memory), on ComfyUI's own network,
        and if another pack has replaced parts of the network. Otherwise it is all of them, and ComfyUI
        divides the call if memory is short. ``x`` is the packed latent, of which only the device is read.
        """
        # The host's own network takes one set of switches a call; packs may replace parts of either for one.
        alone = x.device.type == "cpu" or self._hosts or bool(patched_parts(self.model_patcher))
        return Batching(
            size=1 if alone else len(Pass),
            forks=self._forks(model_options),
            joins=False,
        )

    def _forks(self, model_options: Options) -> bool:
        """Whether guidance passes may share their first blocks: a later pass resumes from saved states.

        They may on this pack's network, if ComfyUI runs each pass in one call of the network. Tiles, several
        positive prompts, and functions of other nodes divide, replace or change this call.
        """
        # Each of these divides or replaces the call, so the saved states would not match the later pass.
        cuts = {"context_handler", "multigpu_clones", "model_function_wrapper"} & model_options.keys()
        options = model_options.get("transformer_options", {})
        # A pack's block may do something else in a later pass, so that its states are not shared.
        foreign = self._hosts or block_patches(options) or patched_parts(self.model_patcher)
        return not cuts and TILES not in options and not foreign and len(self.conds["positive"]) == 1

    def _evaluate(
        self, plan: StepPlan, x: Tensor, timestep: Tensor, model_options: Options
    ) -> dict[Pass, Tensor]:
        """Evaluate the guidance passes of a sampling step: pass -> packed estimate of the clean latent.

        ``plan`` says which passes run and in which calls; ``x`` is the packed noisy latent, ``timestep`` (B,)
        its noise level.
        """
        estimates: dict[Pass, Tensor] = {}
        fork: Fork | None = None
        for call in plan.calls:
            options: Options = {
                **model_options.get("transformer_options", {}),
                # The host may divide or reorder a call, so the network looks its perturbation up by pass.
                PERTURBATIONS: tuple(plan.guidance.perturbation(which) for which in call.passes),
            }
            # The host has encoded the negative text for sampling although no pass of cfg evaluates it.
            if self._nag is not None:
                options[NAG] = (self._nag, self.conds["negative"][0]["model_conds"]["c_crossattn"].cond)
            if call.saves:
                options[FORK] = fork = Fork(call.fork, call.passes.index(Pass.CONDITIONAL))
            elif fork is not None and call.fork:
                options[FORK] = Late(fork)
            conds = [self._conds_of(which) for which in call.passes]
            if self._hosts:
                options |= core_switches(plan.guidance.perturbation(call.passes[0]))
                conds = (
                    conds if NAG not in options else [with_negative_text(c, options[NAG][1]) for c in conds]
                )
            # The host's function and not the network itself, since masks, areas, hooks and context windows
            # are applied there.
            found = comfy.samplers.calc_cond_batch(
                self.inner_model,
                conds,
                x,
                timestep,
                {**model_options, "transformer_options": options},
            )
            estimates.update(zip(call.passes, found, strict=True))
        return estimates

    def _conds_of(self, which: Pass) -> Any:
        if which is Pass.NEGATIVE:
            return self.conds["negative"]
        positive = self.conds["positive"]
        return [without_reference(entry) for entry in positive] if which is Pass.UNREFERENCED else positive

    def _after(
        self,
        guided: Tensor,
        conditional: Tensor,
        negative: Tensor | None,
        x: Tensor,
        timestep: Tensor,
        model_options: Options,
    ) -> Tensor:
        """Apply the post-cfg functions of other nodes and samplers to ``guided``, the guided estimate.

        ``conditional`` and ``negative`` are the estimates of these two guidance passes, ``x`` is the noisy
        latent and ``timestep`` its noise level, all of which the functions may read. ``negative`` is None if
        that pass did not run.
        """
        # The host applies these in its own cfg function, which this guider does not call.
        for patch in model_options.get("sampler_post_cfg_function", []):
            # The keys are those of ComfyUI's ``cfg_function``, which other packs read by name.
            guided = patch(
                {
                    "denoised": guided,
                    "cond": self.conds["positive"],
                    "uncond": None if negative is None else self.conds["negative"],
                    "cond_scale": self.cfg,
                    "model": self.inner_model,
                    "uncond_denoised": negative,
                    "cond_denoised": conditional,
                    "sigma": timestep,
                    "model_options": model_options,
                    "input": x,
                }
            )
        return guided


_CHANGED = {
    "stg": ("attn1", "audio_attn1", "block"),
    "modality": ("block",),
    "nag": ("attn2", "audio_attn2", "block"),
}
"""Guidance -> the parts of a block that it changes."""


def _check_parts(model: Any, passes: set[Pass], nag: bool) -> None:
    """Raise ValueError if another pack has replaced a part of the network that a guidance has to change.

    Either change would undo the other. ``passes`` are the guidance passes that will run, and ``nag`` says
    whether normalised attention guidance is on.
    """
    used = {"stg": Pass.PERTURBED in passes, "modality": Pass.APART in passes, "nag": nag}
    replaced = patched_parts(model)
    for name in (name for name, is_used in used.items() if is_used):
        for part in _CHANGED[name]:
            if part in replaced:
                raise ValueError(
                    f"{name} and {replaced[part]} both change {part} of the transformer blocks: turn {name} "
                    "off, or take that node out"
                )


def without_reference(entry: Options) -> Options:
    """A copy of ``entry``, one processed conditioning of ComfyUI, without its reference audio."""
    conds = {name: cond for name, cond in entry.get("model_conds", {}).items() if name != "ref_audio"}
    return {**entry, "model_conds": conds}
