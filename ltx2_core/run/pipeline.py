"""Text, image and audio in, video with audio out, stage by stage.

Only the networks of the current stage are in memory; ``keep_loaded`` trades that memory for loading time.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..conditioning.state import drop_guides, empty_state
from ..config import transformer_config
from ..loading import Component, Lora, LoraReport
from ..loading.file_set import stage_factor
from ..loading.save_diffusers import save_diffusers
from ..memory import MemoryPlan
from ..out_of_memory import clearly
from ..sampling.caching import Evaluations
from ..sampling.denoiser import Denoiser
from ..sampling.model_calls import ModelCalls
from ..sampling.noise import initial_state, make_noise, with_own_noise
from ..sampling.samplers import get_sampler
from ..storage.files import JsonObject
from ..text.prompt import PromptEmbeds
from ..tiny import embedded_set
from ..transformer.diagnosis import first_broken_block
from ..types import AVLatent, LatentState, Numerics, TextContext
from .codecs import Codecs
from .components import Components, LoraFile, open_loras, warn_of_stacked
from .distributed import Processes
from .execution import Execution
from .flat_options import RequestOptions
from .generation import Generation
from .input_check import check_components, check_inputs, check_run_size, check_stages
from .input_files import file_records
from .inputs import ConditioningInput, describe, read_input_audio, source_size
from .inputs import conditioning as encoded_inputs
from .progress import OnStep, Progress, Run, Stop, Stopped
from .recipes import Recipe, generation_of, of_kind, recipe_for
from .request import Request, flat_signature, request_of
from .several import TEXT_PARTS, check_embeds, encode_prompts, sample_each
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
        if not checkpoints:
            raise ValueError("no checkpoint is named: give its file, or use LTX2Pipeline.embedded()")
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
        prompt: str | Request | None = None,
        *,
        conditioning: Sequence[ConditioningInput] = (),
        given: Sequence[ConditioningInput] = (),
        on_step: OnStep | None = None,
        stop: Stop | None = None,
        **options: Unpack[RequestOptions],
    ) -> Generation:
        """Sample a clip; it is decoded when its frames or audio are read.

        ``options`` are the flat keywords of :class:`Request`; what they leave open comes from the recipe of
        the checkpoint. The prompt may be left out with ``prompt_embeds``. ``conditioning`` is applied after
        the inputs of the request, in its order; ``given`` is its name of 0.1. ``on_step`` is called with the
        :class:`Progress` of every stage and step. ``stop`` is called before every block of every forward
        pass, and ends the run with :class:`Stopped` when it returns True.

        Raises TypeError for unknown options, ValueError for what cannot be sampled with these files.
        """
        original = request_of(prompt, options)
        extra = (*conditioning, *given)
        # What the recipe chose is recorded with the clip, apart from what was asked for.
        request, chosen = original.with_recipe(self.recipe)
        run = Run(on_step, stop)
        stages = self.check(request, further=bool(extra), source=source_size(extra))
        plan = self._memory_plan(stages, source_size(extra))
        files = file_records(request)
        # Text first: unless networks are held, its encoder is freed before the transformer is loaded.
        with self.networks.clock.timed("text"):
            contexts = self._contexts(request, stages, run)
        input_audio = read_input_audio(request, stages[-1])
        items = encoded_inputs(self, request, stages, input_audio, run)
        for stage, more in zip(stages, items, strict=True):
            more.extend(one.at(self, stage.clip) for one in extra)

        sampling = request.sampling
        # It draws the noise of the second stage, too, like that of the official pipelines.
        assert sampling.seed is not None
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
                "inputs": files,
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

    def settings(self) -> JsonObject:
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

    def plan(
        self, stages: Sequence[Stage], budget: int, *, source: tuple[int, int] | None = None
    ) -> MemoryPlan:
        """How ``stages`` would run within ``budget`` bytes of the device; reads headers only.

        ``source`` is the (width, height) of the source of an edit, whose frames are encoded too.
        """
        return self.networks.plan(
            [stage.clip for stage in stages],
            budget=budget,
            batch=self.speed.batch(stages),
            text_keys=self.text_keys_bytes(stages),
            source=source,
        )

    def text_keys_bytes(self, stages: Sequence[Stage]) -> int:
        """Bytes that ``keep_text_keys`` adds to ``stages``; 0 if it is off or has no effect on this model."""
        config = transformer_config(self.networks.file(Component.TRANSFORMER).config)
        return self.speed.text_keys_bytes(stages, config, self.networks.dtype)

    def clips(
        self,
        prompts: str | Request | Sequence[str | Request],
        *,
        seeds: Iterable[int] | None = None,
        on_step: OnStep | None = None,
        stop: Stop | None = None,
        **options: Unpack[RequestOptions],
    ) -> Iterator[Generation]:
        """Sample a clip of each prompt and seed, in this order, with one load of the networks.

        Each equals a call of its own, bit for bit. All are judged before the first is sampled, and all
        prompts are encoded first. The transformer is held until the iteration ends (with ``max_memory`` in
        system memory between its uses): take ``list(...)`` to decode after it is freed. ``on_step`` and
        ``stop`` are those of a call; stages are named "clip 2 of 8: stage 1".
        """
        each = [prompts] if isinstance(prompts, str | Request) else list(prompts)
        drawn: tuple[int | None, ...] = (None,) if seeds is None else tuple(seeds)
        plain = [request_of(prompt, options) for prompt in each]
        requests = [one if seed is None else one.changed(seed=seed) for one in plain for seed in drawn]
        for request in requests:
            self.check(request)
        return sample_each(self, requests, on_step, stop)

    def encode_prompt(self, prompt: str, negative_prompt: str | None = None) -> PromptEmbeds:
        """Both prompts as the transformer takes them, for ``prompt_embeds`` of any number of runs.

        The negative prompt is by default that of the recipe. They hold for the text networks, LoRAs and
        number format that made them; a run with others refuses them.
        """
        text = self.resolve(Request(prompt=prompt, negative_prompt=negative_prompt)).text
        return encode_prompts(self, text)

    def set_loras(
        self, loras: Sequence[LoraFile] = (), *, stage2_loras: Sequence[LoraFile] | None = None
    ) -> None:
        """Change the LoRAs of later calls, and their strengths; clips equal those of a new pipeline.

        ``loras`` take the place of those of every stage, ``stage2_loras`` of those that are added in the
        second one, where None leaves them. Networks that are held are changed layer by layer. Raises
        ValueError, and changes nothing, for a LoRA that fits no layer.
        """
        first = open_loras(loras)
        second = self.stage2_loras if stage2_loras is None else open_loras(stage2_loras)
        for lora in (*first, *second):
            self.networks.lora_report(lora)
        warn_of_stacked((*first, *second))
        self.loras, self.stage2_loras = first, second

    def save_diffusers(self, folder: str | os.PathLike[str]) -> None:
        """Write the files of this pipeline as a diffusers folder, without LoRAs; ``folder`` must be new.

        Tensors are copied bit for bit, and read back and compared. Raises ValueError for quantised weights
        and for what diffusers cannot express.
        """
        save_diffusers(Path(folder), self.networks.checkpoints, self.networks.text_encoder)

    def check(
        self, request: Request, *, further: bool = False, source: tuple[int, int] | None = None
    ) -> tuple[Stage, ...]:
        """The stages of ``request``, after everything was checked that can be before a network is loaded.

        Inputs are read, model files by their headers; ``further`` says that there is conditioning beyond that
        of the request, and ``source`` is the (width, height) of an edit's source. Raises ValueError or
        FileNotFoundError for what cannot be sampled.
        """
        request = self.resolve(request)
        stages = self.stages(request)
        check_run_size(stages[-1].clip)
        check_inputs(request, stages, self.loras)
        check_stages(request, stages, transformer_config(self.networks.file(Component.TRANSFORMER).config))
        check_components(self.networks, request, stages, further=further)
        self.lora_reports()
        if request.text.embeds is not None:
            check_embeds(self, request.text.embeds)
        if request.sampling.cache is not None and self.speed.processes != Processes():
            raise ValueError(
                "a step cache decides from the tensors of one process: use it without several processes"
            )
        plan = self._memory_plan(stages, source)
        if plan is not None and not plan.fits:
            raise ValueError(plan.shortage)
        return stages

    def _memory_plan(self, stages: Sequence[Stage], source: tuple[int, int] | None) -> MemoryPlan | None:
        """How the stages run within ``max_memory``; None without it."""
        budget = self.networks.max_memory
        return None if budget is None else self.plan(stages, budget, source=source)

    @property
    def second_text(self) -> bool:
        """Whether the LoRAs of the second stage change the text networks."""
        return any(TEXT_PARTS & lora.components for lora in self.stage2_loras)

    def stage_loras(self, index: int) -> tuple[Lora, ...]:
        """The LoRAs of a stage, counted from 0."""
        return self.loras + (self.stage2_loras if index else ())

    def _contexts(
        self, request: Request, stages: Sequence[Stage], run: Run
    ) -> list[tuple[TextContext, TextContext | None]]:
        """The contexts of each stage; the second has its own where its LoRAs change the text networks."""
        needed = any(stage.needs_negative for stage in stages)
        embeds = request.text.embeds
        if embeds is not None:
            each = [embeds.of_stage(index) for index in range(len(stages))]
            return [(positive, negative if needed else None) for positive, negative in each]
        negative = request.text.negative if needed else None
        contexts: list[tuple[TextContext, TextContext | None]] = []
        for index in range(len(stages)):
            if index == 0 or self.second_text:
                loras = self.stage_loras(index)
                contexts.append(self.encode_text(request.text.prompt, negative, loras=loras, run=run))
            else:
                contexts.append(contexts[0])
        return contexts

    def _state(self, stage: Stage, latents: AVLatent | None, *, video: bool) -> LatentState:
        state = empty_state(stage.clip, video=video, device=self.networks.device)
        if latents is None:
            return state
        # Samplers compute in float32, whatever the networks compute in.
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
        loras, fused = self.stage_loras(index), self.speed.fused
        with (
            self.networks.clock.timed("sampling"),
            self.networks.use_transformer(loras, plan, fused=fused) as transformer,
        ):
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
            # Drawn even where it is replaced, so that a second stage has the noise of its seed.
            noise = make_noise(state.latent, start_noise)
            if index == 0 and request.inputs.noise is not None:
                noise = with_own_noise(noise, request.inputs.noise)
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
            ("prompt", Parameter.POSITIONAL_OR_KEYWORD, None, "str | Request | None"),
            ("conditioning", Parameter.KEYWORD_ONLY, (), "Sequence[ConditioningInput]"),
            ("given", Parameter.KEYWORD_ONLY, (), "Sequence[ConditioningInput]"),
            ("on_step", Parameter.KEYWORD_ONLY, None, "OnStep | None"),
            ("stop", Parameter.KEYWORD_ONLY, None, "Stop | None"),
        )
    )
)
