"""Samples the stages of one run: adds noise to the state of a stage, and removes it step by step."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from ..conditioning.state import empty_state
from ..loading import Lora
from ..memory import MemoryPlan
from ..sampling.caching import Evaluations
from ..sampling.denoiser import Denoiser, ImageNoise
from ..sampling.model_calls import ModelCalls
from ..sampling.noise import initial_state, make_noise, with_own_noise
from ..sampling.samplers import get_sampler
from ..transformer import Transformer
from ..transformer.diagnosis import first_broken_block
from ..types import AVLatent, LatentState, Numerics
from ..video_vae import VolumeNoise
from .components import Components
from .execution import Speed
from .progress import Run
from .prompt_embeds import Contexts
from .request import Request
from .stages import Stage


class StageSampler:
    """Samples the stages of one run, which share the request, its random generators, and the networks.

    ``networks`` loads the transformer; ``speed`` has the settings that change the time and memory of its
    calls. ``plan`` says which blocks of the transformer are on the device; None, without a memory budget,
    means all. ``numerics`` says whether results follow the official pipelines or ComfyUI. ``run`` receives
    the progress. The seed of ``request`` decides all noise. The random generators advance while stages are
    sampled, so every run needs a ``StageSampler`` of its own.
    """

    def __init__(
        self,
        networks: Components,
        request: Request,
        run: Run,
        *,
        speed: Speed,
        numerics: Numerics,
        plan: MemoryPlan | None,
    ) -> None:
        self.networks = networks
        self.request = request
        self.run = run
        self.speed = speed
        self.numerics = numerics
        self.plan = plan
        # This generator draws the noise of the second stage too, as in the official pipelines.
        self._start_noise = self._generator(0)
        # The official samplers draw their noise from a second generator, with 10000 added to the seed.
        self._step_noise = self._generator(10000)

    def _generator(self, distance: int) -> torch.Generator:
        """A random generator whose seed is that of the request plus ``distance``, modulo 2**64."""
        sampling = self.request.sampling
        assert sampling.seed is not None
        return torch.Generator(sampling.noise_device).manual_seed((sampling.seed + distance) % 2**64)

    def noise_after(self) -> VolumeNoise:
        """Noise for a diffusion video decoder that continues that of the stages sampled so far."""
        return VolumeNoise(start=self._start_noise)

    def state(self, stage: Stage, latents: AVLatent | None) -> LatentState:
        """The state that ``stage`` starts from, without conditioning.

        ``latents`` are the upscaled result of the stage before, or those of the request; None is zeros. If
        they have no audio, the audio is zeros too, or absent for a tile of the DFR pipeline.
        """
        # A tile of the DFR pipeline is sampled without audio.
        with_audio = stage.tile is None
        state = empty_state(
            stage.clip,
            video=self.request.size.video,
            audio=with_audio and self.networks.has_audio,
            device=self.networks.device,
            times=self.networks.times,
        )
        if latents is None:
            return state
        # Samplers compute in float32, whatever the networks compute in.
        latents = latents.to(self.networks.device, torch.float32)
        audio = latents.audio if latents.audio is not None else state.latent.audio
        return replace(state, latent=AVLatent(latents.video, audio))

    def sample(
        self, index: int, stage: Stage, state: LatentState, contexts: Contexts, loras: tuple[Lora, ...]
    ) -> tuple[AVLatent, Evaluations]:
        """Sample ``stage``, number ``index`` from 0, with ``loras`` merged into the transformer.

        ``state`` holds the latents and the conditioning, ``contexts`` the encoded prompts. Returns (latents,
        number of guidance passes that the transformer evaluated and reused). The latents still have the
        latent frames of the guides. Raises ValueError if the estimate of the first step holds NaN or infinite
        values, and Stopped if the run is stopped.
        """
        name, step_noise = f"stage {index + 1}", self._step_noise
        if stage.step_seed is not None:
            step_noise = self._generator(stage.step_seed)
        start_noise = self._start_noise if stage.start_seed is None else self._generator(stage.start_seed)
        self.run.report(name, 0, len(stage.sigmas) - 1)
        with (
            self.networks.clock.timed("sampling", stage=str(index + 1)),
            self.networks.use_transformer(loras, self.plan, fused=self.speed.fused) as transformer,
        ):
            denoise = self._denoiser(transformer, stage, state, contexts, step_noise)
            # Drawn even where it is replaced, so that a second stage has the noise of its seed.
            noise = make_noise(state.latent, start_noise)
            if index == 0 and self.request.inputs.noise is not None:
                noise = with_own_noise(noise, self.request.inputs.noise)
            x = initial_state(state, noise, float(stage.sigmas[0]), self.numerics)
            # The first evaluation of a stage, which is repeated to find the block where values break.
            where = partial(
                first_broken_block,
                transformer.transformer_blocks,
                lambda: denoise(x, float(stage.sigmas[0])),
            )
            latents = get_sampler(stage.sampler, eta=stage.eta)(
                denoise,
                x,
                stage.sigmas,
                lambda step, steps, x0: self.run.report_estimate(name, step, steps, x0, where),
                generator=step_noise,
                preserve=denoise.preserve,
                noise_by_token=stage.noise_by_token,
            )
            return latents, denoise.evaluations

    def _denoiser(
        self,
        transformer: Transformer,
        stage: Stage,
        state: LatentState,
        contexts: Contexts,
        step_noise: torch.Generator,
    ) -> Denoiser:
        """Make the function that estimates clean latents from noisy latents and a noise level, for ``stage``.

        ``state`` has the masks and the conditioning, ``contexts`` are the encoded prompts. ``step_noise``
        draws the noise of the steps.
        """

        def draw(like: AVLatent) -> AVLatent:
            noise = make_noise(like, step_noise)
            return noise.zip(like, lambda own, x: own.to(x))

        return Denoiser(
            self.speed.runner(transformer, self.plan),
            state,
            *contexts,
            guidance=stage.guidance,
            nag=stage.nag,
            numerics=self.numerics,
            sigmas=stage.sigmas,
            image_noise=ImageNoise(stage.image_noise, draw) if stage.image_noise else None,
            calls=ModelCalls(
                dtype=self.networks.dtype,
                passes_per_call=self.speed.passes_per_call,
                pass_group=self.speed.processes.passes,
                cache=self.request.sampling.cache,
                tiles=self.request.sampling.tiles,
                text_keys=self.speed.keep_text_keys,
                on_block=lambda block: self.run.check(),
            ),
        )
