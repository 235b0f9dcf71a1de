"""The library's samplers as SAMPLER objects of ComfyUI, for all its guiders and models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypedDict

import comfy.model_patcher
import comfy.samplers
import torch
from torch import Tensor

from ...ltx2_core.sampling.samplers import Estimates, Sampler, get_sampler
from ...ltx2_core.types import AVLatent
from .streams import Packing


def sampler_object(name: str, eta: float | None = None) -> Any:
    """Create a ComfyUI SAMPLER from the library's sampler ``name``.

    ``eta`` is the share of fresh noise that the sampler adds at each step; None is the sampler's default.
    Fresh noise is drawn on the CPU, video first, with the seed of the run plus one. So every device gets the
    same noise, and for a batch of one it is that of ComfyUI's own samplers on the CPU. Raises ValueError for
    an unknown name, or if the sampler takes no ``eta``.
    """
    return comfy.samplers.KSAMPLER(partial(_run, get_sampler(name, eta=eta)))


def _run(
    sampler: Sampler,
    model: Any,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Mapping[str, Any] | None = None,
    callback: Callable[[dict[str, object]], None] | None = None,
    disable: bool | None = None,
) -> Tensor:
    """Run ``sampler``, one of the library's, with the arguments that ComfyUI passes to a sampler function.

    ``x`` is the packed noisy latent, ``sigmas`` are the noise levels, and ``callback`` is called after each
    step. Returns the packed latent at the last noise level. ``disable`` is not read.
    """
    extra_args = extra_args or {}
    packing = Packing.of(getattr(model.inner_model, "conds", {}))
    denoise = _HostDenoise(model, extra_args, packing, paired=sampler.paired)

    def on_step(step: int, steps: int, x0: AVLatent) -> None:
        if callback is not None:
            denoised = packing.pack(x0)
            # The host counts steps from 0 and calls back with the level at which the step began.
            callback({"i": step - 1, "denoised": denoised, "x": denoise.last, "sigma": sigmas[step - 1]})

    # Plus one, as ComfyUI does: with the seed itself the first fresh noise would equal the initial noise of
    # the run.
    generator = torch.Generator().manual_seed(((extra_args.get("seed") or 0) + 1) % 2**64)
    return packing.pack(sampler(denoise, packing.unpack(x), sigmas, on_step, generator=generator))


class _Denoised(TypedDict):
    """The keys that this file reads of the argument of ComfyUI's post-cfg functions.

    ``denoised`` is the guided estimate of the clean latent, ``uncond_denoised`` the estimate with the
    negative prompt, None if that was not evaluated. Both are packed: (B, 1, values of video and audio).
    """

    denoised: Tensor
    uncond_denoised: Tensor | None


class _HostDenoise:
    """Wraps ComfyUI's model, with guidance and masks, as the denoiser that the library's samplers call.

    ``extra_args`` are ComfyUI's arguments for the model. ``packing`` splits the packed latents of ComfyUI
    into video and audio. With ``paired`` the estimate with the negative prompt is recorded for samplers that
    need it. ``last`` is the noisy latent, packed, of its latest call by the sampler.
    """

    def __init__(self, model: Any, extra_args: Mapping[str, Any], packing: Packing, *, paired: bool) -> None:
        self.last: Tensor | None = None
        self._model, self._args, self._packing = model, dict(extra_args), packing
        self._negative: Tensor | None = None
        # The host's guider only passes the negative estimate to post-cfg functions, and at cfg 1 not even
        # there without this flag.
        if paired:
            self._args["model_options"] = comfy.model_patcher.set_model_options_post_cfg_function(
                # The options belong to the caller, so the function goes into a copy.
                self._args.get("model_options", {}).copy(),
                self._record_negative,
                disable_cfg1_optimization=True,
            )

    def __call__(self, x: AVLatent, sigma: float) -> AVLatent:
        self.last = self._packing.pack(x)
        # The host takes one noise level for each sample, all of which are equal here.
        level = self.last.new_full((len(self.last),), sigma)
        return self._packing.unpack(self._model(self.last, level, **self._args))

    def pair(self, x: AVLatent, sigma: float) -> Estimates:
        x0 = self(x, sigma)
        if self._negative is None:
            raise ValueError(
                "this sampler needs the estimate of a negative prompt, which this guider does not evaluate: "
                "use CFGGuider or LTX-2 Guider"
            )
        return Estimates(x0, self._packing.unpack(self._negative))

    def _record_negative(self, args: _Denoised) -> Tensor:
        self._negative = args["uncond_denoised"]
        return args["denoised"]
