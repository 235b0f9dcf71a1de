"""One sampling run through ComfyUI's own guider interface, samplers, noise and progress bar.

Letters: B batch, N values of a packed latent: ComfyUI concatenates video and audio to (B, 1, N).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, TypedDict

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from torch import Tensor

from ...ltx2_core.out_of_memory import clearly
from ...ltx2_core.run.progress import check_estimate
from ...ltx2_core.sampling.guidance import GuidanceAt
from ...ltx2_core.transformer.diagnosis import first_broken_block
from ...ltx2_core.types import AVLatent
from .guider import AVGuider
from .latents import Latent, check_batch_index, to_av
from .masks import streams_of
from .network import HostTransformer
from .progress import count_bar
from .samplers import sampler_object


@dataclass(frozen=True, kw_only=True)
class HostSampling:
    """Samples with ComfyUI's own CFG guider and ComfyUI's sampler of the name ``sampler``.

    ``cfg`` is the guidance scale of the video, ``audio_cfg`` that of the audio.
    """

    cfg: float
    audio_cfg: float
    sampler: str

    def __call__(
        self, model: Any, positive: Any, negative: Any, latent: Latent, *, seed: int, sigmas: Tensor
    ) -> Latent:
        """Sample ``latent`` along the noise levels ``sigmas`` and return the LATENT at the last one.

        ``positive`` and ``negative`` are CONDITIONING; noise is drawn from ``seed`` and added at the first
        level.
        """
        # Only unequal scales need a function of the pack; a single one uses the host's guidance unchanged.
        scales = _scales(latent, self.cfg, self.audio_cfg)
        guider = comfy.samplers.CFGGuider(model if scales is None else _with_scales(model, scales))
        guider.set_conds(positive, negative)
        guider.set_cfg(self.cfg)
        sampler = comfy.samplers.sampler_object(self.sampler)
        return run(guider, sampler, latent, seed=seed, sigmas=sigmas)


@dataclass(frozen=True, kw_only=True)
class GuidedSampling:
    """Samples with the library's ``guidance`` and the library's sampler of the name ``sampler``.

    ``eta`` is the share of fresh noise that the sampler adds at each step; None is the sampler's default.
    """

    guidance: GuidanceAt
    sampler: str
    eta: float | None

    def __call__(
        self, model: Any, positive: Any, negative: Any, latent: Latent, *, seed: int, sigmas: Tensor
    ) -> Latent:
        """Sample ``latent`` along the noise levels ``sigmas`` and return the LATENT at the last one.

        ``positive`` and ``negative`` are CONDITIONING; noise is drawn from ``seed`` and added at the first
        level.
        """
        guider = AVGuider(model, self.guidance)
        guider.set_conds(positive, negative)
        return run(guider, sampler_object(self.sampler, self.eta), latent, seed=seed, sigmas=sigmas)


def run(guider: Any, sampler: Any, latent: Latent, *, seed: int, sigmas: Tensor) -> Latent:
    """Sample ``latent`` along the noise levels ``sigmas``, as ComfyUI's node SamplerCustomAdvanced does.

    ``guider`` is a GUIDER, ``sampler`` a SAMPLER. Noise is drawn from ``seed`` on the CPU, video first. Every
    step moves the progress bar and can be interrupted by the stop button. Raises ValueError if
    ``batch_index`` of the LATENT does not fit its batch.
    """
    check_batch_index(latent)
    samples = comfy.sample.fix_empty_latent_channels(
        guider.model_patcher, latent["samples"], latent.get("downscale_ratio_spacial")
    )
    # The host draws noise on the CPU, so a seed gives the same clip on every device.
    noise = comfy.sample.prepare_noise(samples, seed, latent.get("batch_index"))
    on_count = count_bar(len(sigmas) - 1, "sampling step")

    def on_step(step: int, x0: Tensor, x: Tensor, total: int) -> None:
        # Only the first step: checking reads the whole estimate, and a network that is broken is so from the
        # start.
        if step == 0:
            _check_first(guider, samples, x0, x, sigmas)
        on_count(step + 1)

    with clearly("sampling"):
        sampled = guider.sample(
            noise,
            samples,
            sampler,
            sigmas,
            denoise_mask=latent.get("noise_mask"),
            callback=on_step,
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=seed,
        )
    # As in the host's node: these keys describe the latent before its channels and size were fixed.
    other = {key: value for key, value in latent.items() if not key.startswith("downscale_ratio_")}
    return {**other, "samples": sampled.to(comfy.model_management.intermediate_device())}


def _check_first(guider: Any, samples: Any, x0: Tensor, x: Tensor, sigmas: Tensor) -> None:
    """Raise ValueError if ``x0``, the first step's estimate of the clean latent, has NaN or infinite values.

    The message names video or audio, and with this pack's network the block where they arise. ``samples`` is
    the LATENT's tensor, of which the shapes are read, and ``x`` the noisy latent of the step.
    """
    network = guider.model_patcher.model.diffusion_model

    def where() -> str:
        # The callback of the first step gets the latent at the first noise level, so that this repeats that
        # step.
        packed = comfy.utils.pack_latents(x.unbind())[0] if getattr(x, "is_nested", False) else x
        sigma = sigmas[:1].to(packed.device).expand(len(packed))
        return first_broken_block(network.transformer_blocks, lambda: guider.predict_noise(packed, sigma))

    streams = streams_of(samples)
    # From ComfyUI 0.30 on the callback gets both streams apart, before that packed into one tensor.
    parts = streams_of(x0)
    if len(streams) == 2 and len(parts) == 1:
        parts = comfy.utils.unpack_latents(x0, [stream.shape for stream in streams])
    audio = parts[1] if len(parts) == 2 else None
    ours = isinstance(network, HostTransformer)
    check_estimate("sampling", 1, len(sigmas) - 1, AVLatent(parts[0], audio), where if ours else None)


def _scales(latent: Latent, cfg: float, audio_cfg: float) -> Tensor | None:
    """The guidance scale of each value in the packed latent, (1, 1, values); None if ``cfg`` serves for all.

    ``cfg`` is the scale of the video, ``audio_cfg`` that of the audio.
    """
    # A run sees both streams as one packed latent, so the scales have to follow its layout: video, then
    # audio.
    streams = to_av(latent)
    if audio_cfg == cfg or streams.video is None or streams.audio is None:
        return None
    sizes = (prod(streams.video.shape[1:]), prod(streams.audio.shape[1:]))
    return torch.repeat_interleave(torch.tensor([cfg, audio_cfg]), torch.tensor(sizes))[None, None]


class _CFGArguments(TypedDict):
    """The keys that this file reads of the argument of ComfyUI's cfg functions.

    ``input`` is the noisy latent; the others are estimates of the clean latent with the positive and the
    negative prompt.
    """

    input: Tensor
    cond_denoised: Tensor
    uncond_denoised: Tensor


def _with_scales(model: Any, scales: Tensor) -> Any:
    """A clone of ``model`` whose guidance has its own scale for each value of the packed latent.

    ``scales`` is (1, 1, values of video and audio). Raises ValueError if another node has set a guidance
    function.
    """
    if "sampler_cfg_function" in model.model_options:
        raise ValueError(
            "this model has a guidance of its own from another node: set audio_cfg to 0, or take that "
            "node out"
        )

    def guide(args: _CFGArguments) -> Tensor:
        uncond, cond = args["uncond_denoised"], args["cond_denoised"]
        # The host subtracts the result from the input again.
        return args["input"] - (uncond + (cond - uncond) * scales.to(uncond))

    clone = model.clone()
    # At cfg 1 the host would skip the negative prompt, which the scale of the audio may need.
    clone.set_model_sampler_cfg_function(guide, disable_cfg1_optimization=True)
    return clone
