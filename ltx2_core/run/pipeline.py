"""Generates video with audio from text, images and audio, in one or two stages.

Only the networks of the current stage are in memory; ``keep_loaded`` holds all of them, which saves time.
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
    """A pipeline for LTX-2 model files: call it with a prompt to generate a clip.

    Raises ValueError for files that are not LTX-2, FileNotFoundError for missing ones.

    Args:
        checkpoints: one official file, or several files that together hold the components of the model.
        text_encoder: folder or file of the Gemma that belongs to the checkpoint. A diffusers folder contains
            its own, so that none needs to be named.
        upscaler: latent upscaler file, needed for two stages.
        video_decoder: file of a video VAE that decodes instead of the checkpoint's own decoder, such as the
            diffusion decoder of LTX-2.5 with a checkpoint of LTX-2.3.
        loras: LoRAs for every stage, each as (file, strength) or LoraSpec. ``stage2_loras`` are merged in
            addition to them in the second stage.
        numerics: where the official pipelines and ComfyUI give different results, which of them to give.
        execution: how to run. Its fields can also be passed as keywords, such as ``device``, ``dtype``,
            ``keep_loaded`` and ``max_memory`` (see :class:`Execution`).
    """

    def __init__(
        self,
        *checkpoints: str | os.PathLike[str],
        text_encoder: str | os.PathLike[str] | None = None,
        upscaler: str | os.PathLike[str] | None = None,
        video_decoder: str | os.PathLike[str] | None = None,
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
        # To prefer one of them would silently ignore what the caller wrote.
        elif device is not None or dtype is not None or options:
            shortcuts = {"device": device, "dtype": dtype, **options}
            named = ", ".join(name for name, value in shortcuts.items() if value is not None)
            raise TypeError(f"execution and {named} say the same twice: give one or the other")
        networks = Components(
            (*checkpoints, *(() if upscaler is None else (upscaler,))),
            text_encoder,
            execution=execution,
            numerics=numerics,
            video_decoder=video_decoder,
        )
        super().__init__(networks, open_loras(loras))
        self.stage2_loras = open_loras(stage2_loras)
        warn_of_stacked((*self.loras, *self.stage2_loras))
        self.numerics = numerics
        self.execution = execution
        self.speed = execution.speed()

    @classmethod
    def embedded(cls, **options: Any) -> LTX2Pipeline:
        """Make a pipeline of the tiny model set in this package, which generates a world of coloured shapes.

        Its networks have the real architecture. ``options`` are keywords of the class.
        """
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
        """Sample a clip; frames and audio are decoded when they are read from the result.

        ``options`` are the keywords of :class:`Request`; the recipe of the checkpoint fills in those that are
        missing. The prompt may be left out if ``prompt_embeds`` is passed. ``conditioning`` items are applied
        in their order, after the inputs of the request; ``given`` is the old name of this argument in version
        0.1. ``on_step`` is called with a :class:`Progress` at the start of each stage and after each step.
        ``stop`` is called before every block of every forward pass; if it returns True, the run ends with
        :class:`Stopped`.

        Raises TypeError for unknown options, ValueError for what these files cannot sample.
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
            # Guides are extra tokens, which neither the upscaler nor the decoder takes.
            latents = drop_guides(latents, state)
            # The second stage samples audio all the same, because both streams attend to each other; its
            # result is exchanged at the end.
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
        """The default settings for this checkpoint with full (not distilled) weights."""
        file = self.networks.file(Component.TRANSFORMER)
        version = str(file.metadata.get("model_version", ""))
        return recipe_for(generation_of(version, inferred=file.generation))

    def resolve(self, request: Request) -> Request:
        """Return ``request`` with every open value filled in from the recipe of the checkpoint."""
        return request.with_recipe(self.recipe)[0]

    def stages(self, request: Request) -> tuple[Stage, ...]:
        """Plan the sampling runs for ``request``: size, sigmas and guidance of each stage.

        The recipe, numerics and upscaler of this pipeline decide what the request leaves open. Raises
        ValueError if two stages are asked for and the upscaler cannot be used between them.
        """
        factor = Fraction(2)
        if request.staging.count == 2:
            factor = stage_factor(self.networks.file(Component.UPSAMPLER))
        return plan_stages(request, self.numerics, self.recipe, enlargement=factor)

    def _recipe_of(self, request: Request) -> Recipe:
        return of_kind(self.recipe, distilled=request.sampling.distilled)

    def settings(self) -> JsonObject:
        """JSON values that describe this pipeline: its files, its LoRAs and its numerics."""
        return {
            "checkpoints": [file.path.name for file in self.networks.checkpoints],
            "loras": [lora.settings for lora in self.loras],
            "stage2_loras": [lora.settings for lora in self.stage2_loras],
            "numerics": self.numerics.value,
            "dtype": str(self.networks.dtype).removeprefix("torch."),
        }

    def lora_reports(self) -> tuple[LoraReport, ...]:
        """Report for each LoRA which layers it changes, from headers alone.

        Raises ValueError if one fits no layer.
        """
        return tuple(self.networks.lora_report(lora) for lora in (*self.loras, *self.stage2_loras))

    def plan(
        self, stages: Sequence[Stage], budget: int, *, source: tuple[int, int] | None = None
    ) -> MemoryPlan:
        """Plan how ``stages`` run within ``budget`` bytes of device memory, from headers of files alone.

        ``source`` is the (width, height) of an edit's source, whose frames are encoded too.
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
        """Sample one clip for each prompt and each seed, with one load of the networks.

        Yields all seeds of the first prompt, then those of the next one. Each clip equals that of a single
        call, bit for bit. All requests are checked before the first is sampled, and all prompts are encoded
        first. The transformer stays loaded until the iteration ends (with ``max_memory`` it is in system
        memory between its uses): take ``list(...)`` before decoding to free it. ``on_step`` and ``stop`` work
        as in a call; stages are named "clip 2 of 8: stage 1".
        """
        each = [prompts] if isinstance(prompts, str | Request) else list(prompts)
        drawn: tuple[int | None, ...] = (None,) if seeds is None else tuple(seeds)
        plain = [request_of(prompt, options) for prompt in each]
        requests = [one if seed is None else one.changed(seed=seed) for one in plain for seed in drawn]
        for request in requests:
            self.check(request)
        return sample_each(self, requests, on_step, stop)

    def encode_prompt(self, prompt: str, negative_prompt: str | None = None) -> PromptEmbeds:
        """Encode both prompts once, to be passed as ``prompt_embeds`` to any number of runs.

        The default negative prompt is that of the recipe. The result fits only the text networks, LoRAs and
        number format that made it; a run with others raises ValueError.
        """
        text = self.resolve(Request(prompt=prompt, negative_prompt=negative_prompt)).text
        return encode_prompts(self, text)

    def set_loras(
        self, loras: Sequence[LoraFile] = (), *, stage2_loras: Sequence[LoraFile] | None = None
    ) -> None:
        """Replace the LoRAs, or change their strengths, for later calls.

        ``loras`` replace those of every stage. ``stage2_loras`` replace those added in the second stage; None
        leaves them as they are. In networks that are loaded, only the layers concerned are changed. Results
        equal those of a new pipeline. Raises ValueError, and changes nothing, if a LoRA fits no layer.
        """
        first = open_loras(loras)
        second = self.stage2_loras if stage2_loras is None else open_loras(stage2_loras)
        for lora in (*first, *second):
            # All are checked before one is replaced, so that a wrong LoRA leaves the pipeline as it is.
            self.networks.lora_report(lora)
        warn_of_stacked((*first, *second))
        self.loras, self.stage2_loras = first, second

    def save_diffusers(self, folder: str | os.PathLike[str]) -> None:
        """Write the model files of this pipeline, without LoRAs, as a new diffusers folder.

        Tensors are copied bit for bit, read back and compared. Raises ValueError for quantised weights and
        for models that diffusers has no classes for.
        """
        save_diffusers(Path(folder), self.networks.checkpoints, self.networks.text_encoder)

    def check(
        self, request: Request, *, further: bool = False, source: tuple[int, int] | None = None
    ) -> tuple[Stage, ...]:
        """Check all that can be checked before a network is loaded; returns the stages of ``request``.

        All inputs are read, and the headers of all model files. ``further`` says that the call has
        conditioning beyond its request, ``source`` is the (width, height) of an edit's source. Raises
        ValueError or FileNotFoundError for what cannot be sampled.
        """
        request = self.resolve(request)
        stages = self.stages(request)
        # From cheap to costly: inputs and headers are read only for a request that is possible in itself.
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
        """Plan how the stages run within ``max_memory``; None if there is no such budget."""
        budget = self.networks.max_memory
        return None if budget is None else self.plan(stages, budget, source=source)

    @property
    def second_text(self) -> bool:
        """Whether the LoRAs of stage 2 change the text networks, so that it needs its own text contexts."""
        return any(TEXT_PARTS & lora.components for lora in self.stage2_loras)

    def stage_loras(self, index: int) -> tuple[Lora, ...]:
        """All LoRAs that stage number ``index`` merges; 0 is the first stage."""
        return self.loras + (self.stage2_loras if index else ())

    def _contexts(
        self, request: Request, stages: Sequence[Stage], run: Run
    ) -> list[tuple[TextContext, TextContext | None]]:
        """Encode the prompts: for each stage the contexts of the prompt and of the negative prompt.

        The stages share them, unless the LoRAs of the second stage change the text networks.
        """
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
