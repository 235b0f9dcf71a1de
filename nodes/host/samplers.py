"""The library's samplers as the host's SAMPLER, for any of its guiders and models."""

from __future__ import annotations

from functools import partial
from typing import Any

import comfy.model_patcher
import comfy.samplers
import torch
from torch import Tensor

from ...ltx2_core.sampling.samplers import PAIRED, Estimates, Sampler, get_sampler
from ...ltx2_core.types import AVLatent
from .streams import Packing


def sampler_object(name: str, eta: float | None = None) -> Any:
    """A SAMPLER. Raises ValueError for an unknown name, or an ``eta`` that the sampler does not take.

    Fresh noise comes from the CPU, video first, seeded one above the run: on the CPU this is the host's own
    noise for a batch of one, and on every other device the same.
    """
    return comfy.samplers.KSAMPLER(partial(_run, get_sampler(name, eta=eta), name in PAIRED))


def _run(
    sampler: Sampler,
    paired: bool,
    model: Any,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Any = None,
    disable: bool | None = None,
) -> Tensor:
    """The host's signature of a sampler."""
    extra_args = dict(extra_args or {})
    denoise = _HostDenoise(model, extra_args, Packing.of(getattr(model.inner_model, "conds", {})), paired)

    def on_step(step: int, steps: int, x0: AVLatent) -> None:
        if callback is not None:
            denoised = denoise.packing.pack(x0)
            callback({"i": step - 1, "denoised": denoised, "x": denoise.last, "sigma": sigmas[step - 1]})

    generator = torch.Generator().manual_seed(((extra_args.get("seed") or 0) + 1) % 2**64)
    result = sampler(denoise, denoise.packing.unpack(x), sigmas, on_step, generator=generator)
    return denoise.packing.pack(result)


class _HostDenoise:
    """The host's model with guidance and masks as the library's denoiser."""

    def __init__(self, model: Any, extra_args: dict[str, Any], packing: Packing, paired: bool) -> None:
        self.packing = packing
        self.last: Tensor | None = None
        self._model, self._args = model, extra_args
        self._negative: Tensor | None = None
        if paired:
            extra_args["model_options"] = comfy.model_patcher.set_model_options_post_cfg_function(
                extra_args.get("model_options", {}).copy(), self._remember, disable_cfg1_optimization=True
            )

    def __call__(self, x: AVLatent, sigma: float) -> AVLatent:
        self.last = self.packing.pack(x)
        return self.packing.unpack(
            self._model(self.last, self.last.new_full((len(self.last),), sigma), **self._args)
        )

    def pair(self, x: AVLatent, sigma: float) -> Estimates:
        x0 = self(x, sigma)
        if self._negative is None:
            raise ValueError(
                "this sampler needs the estimate of a negative prompt, which this guider does not evaluate: "
                "use CFGGuider or LTX-2 Guider"
            )
        return Estimates(x0, self.packing.unpack(self._negative))

    def _remember(self, args: dict[str, Any]) -> Tensor:
        self._negative = args["uncond_denoised"]
        result: Tensor = args["denoised"]
        return result
