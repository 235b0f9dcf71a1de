"""Text, image and audio in, video with audio out, stage by stage.

Only the networks of the current stage are in memory; ``keep_loaded`` trades that memory for loading time.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from inspect import Parameter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..conditioning.state import drop_guides, empty_state
from ..config import transformer_config
from ..loading import Component, Lora, LoraReport
from ..loading.file_set import stage_factor
from ..memory import MemoryPlan
from ..out_of_memory import clearly
from ..sampling.caching import Evaluations
from ..sampling.denoiser import Denoiser
from ..sampling.model_calls import ModelCalls
from ..sampling.noise import initial_state, make_noise
from ..sampling.samplers import get_sampler
from ..tiny import embedded_set
from ..transformer.diagnosis import first_broken_block
from ..types import AVLatent, LatentState, Numerics, TextContext
from .codecs import Codecs
from .components import Components, LoraFile, open_loras, warn_of_stacked
from .distributed import Processes
from .execution import Execution
from .flat_options import RequestOptions
from .generation import Generation
from .inputs import ConditioningInput, describe, read_input_audio
from .inputs import conditioning as encoded_inputs
from .progress import OnStep, Progress, Run, Stop, Stopped
from .recipes import Recipe, generation_of, of_kind, recipe_for
from .request import Request, flat_signature
from .stages import Stage, plan_stages

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .execution import ExecutionOptions

__all__ = ["Given", "LTX2Pipeline", "OnStep", "Progress", "Stop", "Stopped"]

Given = ConditioningInput
"""The name of 0.1."""


class LTX2Pipeline(Codecs):
    """LTX-2 from files, ready to be called.

    Raises ValueError for files that are not LTX-2, FileNotFoundError for missing ones.

    Args:
        checkpoints: official single file, or the files that together hold its components.
        text_encoder: folder or single file of the Gemma that belongs to it; a diffusers folder has its own.
        upscaler: latent upscaler file, for two stages.
        loras: (file, strength) or LoraSpec for every stage; ``stage2_loras`` are added in the second one.
        numerics: whose result to give where public implementations differ.
        execution: how to run; its fields are also accepted one by one, as ``device``, ``dtype``,
            ``keep_loaded``, ``max_memory`` and so on (see :class:`Execution`).
    """

    def __init__(
        self,
        *checkpoints: str | os.PathLike[str],
        text_encoder: str | os.PathLike[str] | None = None,
        upscaler: str | os.PathLike[str] | None = None,
        loras: Sequence[LoraFile] = (),
        stage2_loras: Sequence[LoraFile] = (),
        numerics: Numerics = Numerics.OFFICIAL,
        execution: Execution | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[ExecutionOptions],
    ) -> None:
        if execution is None:
            execution = Execution.on(device, dtype, **options)
        elif device is not None or dtype is not None or options:
            shortcuts = {"device": device, "dtype": dtype, **options}
            named = ", ".join(name for name, value in shortcuts.items() if value is not None)
            raise TypeError(f"execution and {named} say the same twice: give one or the other")
        networks = Components(
            (*checkpoints, *(() if upscaler is None else (upscaler,))),
            text_encoder,
            execution=execution,
            numerics=numerics,
        )
        super().__init__(networks, open_loras(loras))
        self.stage2_loras = open_loras(stage2_loras)
        warn_of_stacked((*self.loras, *self.stage2_loras))
        self.numerics = numerics
        self.execution = execution
        self.speed = execution.speed()

    @classmethod
    def embedded(cls, **options: Any) -> LTX2Pipeline:
        """The tiny set of the package: every network is real, and trained on a world of coloured shapes."""
        files = embedded_set()
        return cls(files.checkpoint, text_encoder=files.text_encoder, upscaler=files.upsampler, **options)

    @clearly("preparing the run")
    def __call__(
        self,
        prompt: str | Request,
        *,
        conditioning: Sequence[ConditioningInput] = (),
        given: Sequence[ConditioningInput] = (),
        on_step: OnStep | None = None,
        stop: Stop | None = None,
        **options: Unpack[RequestOptions],
    ) -> Generation:
        """Sample a clip; it is decoded when its frames or audio are read.

        ``options`` are the flat keywords of :class:`Request`; what they leave open comes from the recipe of
        the checkpoint. ``conditioning`` is applied after the inputs of the request, in its order; ``given``
        is its name of 0.1. ``on_step`` is called with the :class:`Progress` of every stage and step. ``stop``
        is called before every block of every forward pass, and ends the run with :class:`Stopped` when it
        returns True.

        Raises TypeError for unknown options, ValueError for what cannot be sampled with these files.
        """
        if isinstance(prompt, Request):
            original = prompt.changed(**options) if options else prompt
        else:
            original = Request(prompt=prompt, **options)
        extra = (*conditioning, *given)
        request, chosen = original.with_recipe(self.recipe)
        run = Run(on_step, stop)
        stages = self.stages(request)
        self._check_files(request, stages, extra)
        if request.sampling.cache is not None and self.speed.processes != Processes():
            raise ValueError(
                "a step cache decides from the tensors of one process: use it without several processes"
            )
        plan = None if self.networks.max_memory is None else self.plan(stages, self.networks.max_memory)
        if plan is not None and not plan.fits:
            raise ValueError(plan.shortage)
        contexts = self._contexts(request, stages, run)
        input_audio = read_input_audio(request, stages[-1])
        items = encoded_inputs(self, request, stages, input_audio, run)
        for stage, more in zip(stages, items, strict=True):
            more.extend(one.at(self, stage.clip) for one in extra)

        sampling = request.sampling
        # It draws the noise of the second stage, too, like that of the official pipelines.
        start_noise = torch.Generator(sampling.noise_device).manual_seed(sampling.seed)
        # The official samplers draw theirs from a generator of its own, this far from the seed.
        step_noise = torch.Generator(sampling.noise_device).manual_seed((sampling.seed + 10000) % 2**64)
        latents = request.inputs.latents
        first_audio: Tensor | None = None
        evaluations: list[Evaluations] = []
        for index, stage in enumerate(stages):
            if index and latents is not None:
                run.report(f"upscale to {stage.clip.width}x{stage.clip.height}", 0, 1)
                latents = self.upsample(latents)
            state = self._state(stage, latents, video=request.size.video)
            # In every stage, since the upscaler blurs images that were put in place.
            for item in items[index]:
                state = item.apply(state)
            latents, used = self._sample(
                index, stage, state, *contexts[index], request, start_noise, step_noise, run, plan
            )
            evaluations.append(used)
            latents = drop_guides(latents, state)
            if index == 0 and self._audio_stage(request, stages) == 1:
                first_audio = latents.audio
        assert latents is not None
        if first_audio is not None:
            latents = replace(latents, audio=first_audio)
        return Generation(
            codecs=self,
            run_settings={
                **self.settings(),
                "recipe": {"name": self._recipe_of(request).name, "chose": list(chosen)},
                "conditioning": [describe(item) for item in extra],
            },
            latents=latents,
            clip=stages[-1].clip,
            request=request,
            sigmas=tuple(tuple(round(v, 6) for v in s.sigmas.tolist()) for s in stages),
            input_audio=input_audio,
            evaluations=tuple(evaluations),
        )

    @property
    def recipe(self) -> Recipe:
        """The recipe of the transformer's file, for full weights."""
        file = self.networks.file(Component.TRANSFORMER)
        version = str(file.metadata.get("model_version", ""))
        return recipe_for(generation_of(version, inferred=file.generation))

    def resolve(self, request: Request) -> Request:
        """``request`` with everything that it leaves open filled in from the recipe."""
        return request.with_recipe(self.recipe)[0]

    def stages(self, request: Request) -> tuple[Stage, ...]:
        """The stages of ``request`` with the recipe, numerics and upscaler of this pipeline.

        Raises ValueError for two stages with an upscaler that cannot lie between them.
        """
        factor = Fraction(2)
        if request.staging.count == 2:
            factor = stage_factor(self.networks.file(Component.UPSAMPLER))
        return plan_stages(request, self.numerics, self.recipe, enlargement=factor)

    def _recipe_of(self, request: Request) -> Recipe:
        return of_kind(self.recipe, distilled=request.sampling.distilled)

    def settings(self) -> dict[str, Any]:
        """The files, LoRAs and numerics of this pipeline's runs, as JSON values."""
        return {
            "checkpoints": [file.path.name for file in self.networks.checkpoints],
            "loras": [lora.settings for lora in self.loras],
            "stage2_loras": [lora.settings for lora in self.stage2_loras],
            "numerics": self.numerics.value,
            "dtype": str(self.networks.dtype).removeprefix("torch."),
        }

    def lora_reports(self) -> tuple[LoraReport, ...]:
        """Which layers each LoRA changes; reads headers only. Raises ValueError for one that fits none."""
        return tuple(self.networks.lora_report(lora) for lora in (*self.loras, *self.stage2_loras))

    def plan(self, stages: Sequence[Stage], budget: int) -> MemoryPlan:
        """How ``stages`` would run within ``budget`` bytes of the device; reads headers only."""
        return self.networks.plan(
            [stage.clip for stage in stages],
            budget=budget,
            batch=self.speed.batch(stages),
            text_keys=self.text_keys_bytes(stages),
        )

    def text_keys_bytes(self, stages: Sequence[Stage]) -> int:
        """Bytes that ``keep_text_keys`` adds to ``stages``; 0 if it is off or has no effect on this model."""
        config = transformer_config(self.networks.file(Component.TRANSFORMER).config)
        return self.speed.text_keys_bytes(stages, config, self.networks.dtype)

    def _check_files(
        self, request: Request, stages: Sequence[Stage], extra: Sequence[ConditioningInput]
    ) -> None:
        """Find every component that the run needs before anything is computed."""
        inputs = request.inputs
        needed = [Component.TEXT_PROJECTION, Component.TEXT_CONNECTORS, Component.TRANSFORMER]
        needed += [Component.VIDEO_DECODER, Component.AUDIO_DECODER, Component.VOCODER]
        if len(stages) > 1:
            needed.append(Component.UPSAMPLER)
        if len(stages) > 1 or inputs.image.source is not None or inputs.images or inputs.references or extra:
            needed.append(Component.VIDEO_ENCODER)
        if inputs.audio.source is not None or inputs.reference_audio.source is not None:
            needed.append(Component.AUDIO_ENCODER)
        for component in needed:
            self.networks.file(component)
        self.lora_reports()

    def _stage_loras(self, index: int) -> tuple[Lora, ...]:
        return self.loras + (self.stage2_loras if index else ())

    def _contexts(
        self, request: Request, stages: Sequence[Stage], run: Run
    ) -> list[tuple[TextContext, TextContext | None]]:
        """The contexts of each stage; the second has its own where its LoRAs change the text networks."""
        negative = request.text.negative if any(s.needs_negative for s in stages) else None
        text = {Component.TEXT_CONNECTORS, Component.TEXT_PROJECTION}
        contexts: list[tuple[TextContext, TextContext | None]] = []
        for index in range(len(stages)):
            if index == 0 or any(text & lora.components for lora in self.stage2_loras):
                loras = self._stage_loras(index)
                contexts.append(self.encode_text(request.text.prompt, negative, loras=loras, run=run))
            else:
                contexts.append(contexts[0])
        return contexts

    def _state(self, stage: Stage, latents: AVLatent | None, *, video: bool) -> LatentState:
        state = empty_state(stage.clip, video=video, device=self.networks.device)
        if latents is None:
            return state
        latents = latents.to(self.networks.device, torch.float32)
        return replace(
            state,
            latent=AVLatent(
                latents.video, latents.audio if latents.audio is not None else state.latent.audio
            ),
        )

    def _sample(
        self,
        index: int,
        stage: Stage,
        state: LatentState,
        positive: TextContext,
        negative: TextContext | None,
        request: Request,
        start_noise: torch.Generator,
        step_noise: torch.Generator,
        run: Run,
        plan: MemoryPlan | None,
    ) -> tuple[AVLatent, Evaluations]:
        name = f"stage {index + 1}"
        run.report(name, 0, len(stage.sigmas) - 1)
        loras, fused = self._stage_loras(index), self.speed.fused
        with self.networks.use_transformer(loras, plan, fused=fused) as transformer:
            denoise = Denoiser(
                self.speed.runner(transformer, plan),
                state,
                positive,
                negative,
                guidance=stage.guidance,
                nag=stage.nag,
                numerics=self.numerics,
                sigmas=stage.sigmas,
                calls=ModelCalls(
                    dtype=self.networks.dtype,
                    passes_per_call=self.speed.passes_per_call,
                    pass_group=self.speed.processes.passes,
                    cache=request.sampling.cache,
                    tiles=request.sampling.tiles,
                    text_keys=self.speed.keep_text_keys,
                    on_block=lambda block: run.check(),
                ),
            )
            noise = make_noise(state.latent, start_noise)
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
                lambda step, steps, x0: run.report_estimate(name, step, steps, x0, where),
                generator=step_noise,
                preserve=denoise.preserve,
            )
            return latents, denoise.evaluations

    def _audio_stage(self, request: Request, stages: Sequence[Stage]) -> int:
        if request.staging.audio_stage is not None:
            return request.staging.audio_stage
        return 1 if stages[0].guided and self.numerics is Numerics.OFFICIAL else 2


# Unpack is for type checkers; help() and completion in an editor read this signature.
_CALL: Any = LTX2Pipeline.__call__
_CALL.__signature__ = flat_signature(
    *(
        Parameter(name, kind, default=default, annotation=annotation)
        for name, kind, default, annotation in (
            ("self", Parameter.POSITIONAL_OR_KEYWORD, Parameter.empty, Parameter.empty),
            ("prompt", Parameter.POSITIONAL_OR_KEYWORD, Parameter.empty, "str | Request"),
            ("conditioning", Parameter.KEYWORD_ONLY, (), "Sequence[ConditioningInput]"),
            ("given", Parameter.KEYWORD_ONLY, (), "Sequence[ConditioningInput]"),
            ("on_step", Parameter.KEYWORD_ONLY, None, "OnStep | None"),
            ("stop", Parameter.KEYWORD_ONLY, None, "Stop | None"),
        )
    )
)
