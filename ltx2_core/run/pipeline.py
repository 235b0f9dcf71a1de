"""Generates video with audio from text, images and audio, in one or two stages.

Only the networks of the current stage are in memory; ``keep_loaded`` holds all of them, which saves time.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..loading.save_diffusers import save_diffusers
from ..media.images import ImageSource
from ..out_of_memory import clearly
from ..text.enhance import SEED
from ..text.prompt import PromptEmbeds
from ..tiny import embedded_set
from ..types import Numerics
from .components import Components
from .dfr_plan import NO_DFR_FILES, DfrFiles, asked_clip, at_frames, detail_scale, dfr_files
from .dfr_stages import DfrStages
from .duration import predict_seconds, with_length
from .enhancer import enhance_prompt
from .execution import Execution
from .flat_options import RequestOptions
from .frame_rate import doubled_frames
from .generation import Generation
from .hdr_inputs import read_image
from .input_files import file_records
from .inputs import ConditioningInput, describe, read_input_audio, source_size
from .inputs import conditioning as encoded_inputs
from .lora_files import LoraFile, open_loras
from .planner import Planner, table_recipe
from .progress import OnStep, Progress, Run, Stop, Stopped, check_functions, listed
from .prompt_embeds import encode_prompts, stage_contexts
from .request import Request, flat_signature, request_of
from .sample_stages import sample_dfr, sample_stages
from .several import sample_each
from .stage_sampler import StageSampler

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .execution import ExecutionOptions

__all__ = ["Given", "LTX2Pipeline", "OnStep", "Progress", "Stop", "Stopped"]

Given = ConditioningInput
"""The name of ``ConditioningInput`` in version 0.1, which still works."""


class LTX2Pipeline(Planner):
    """A pipeline for LTX-2 model files: call it with a prompt to generate a clip.

    Raises ValueError for files that are not LTX-2, FileNotFoundError for missing ones.

    Args:
        checkpoints: one official file, or several files that together hold the components of the model.
        text_encoder: folder or file of the Gemma that belongs to the checkpoint. A diffusers folder contains
            its own, so that none needs to be named.
        upscaler: latent upscaler file, needed for two stages.
        video_decoder: file of a video VAE that decodes instead of the checkpoint's own decoder, such as the
            diffusion decoder of LTX-2.5 with a checkpoint of LTX-2.3.
        enhancer: folder or file of an instruction-tuned Gemma that rewrites prompts in
            :meth:`enhance_prompt`. Without it the text encoder does, if it is a Gemma 3.
        loras: LoRAs for every stage, each as (file, strength) or LoraSpec. ``stage2_loras`` are merged in
            addition to them in the second stage.
        dfr: files that only the DFR pipeline uses (``pipeline_kind="dfr"`` in a call).
        numerics: whose results to reproduce where the official pipelines and ComfyUI compute different ones.
        execution: how to run. Its fields can be passed as keywords instead, such as ``device``, ``dtype``,
            ``keep_loaded`` and ``max_memory`` (see :class:`Execution`).
    """

    def __init__(  # noqa: PLR0913 users name one file or value with each
        self,
        *checkpoints: str | os.PathLike[str],
        text_encoder: str | os.PathLike[str] | None = None,
        upscaler: str | os.PathLike[str] | None = None,
        video_decoder: str | os.PathLike[str] | None = None,
        enhancer: str | os.PathLike[str] | None = None,
        loras: Sequence[LoraFile] = (),
        stage2_loras: Sequence[LoraFile] = (),
        dfr: DfrFiles = NO_DFR_FILES,
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
        self.enhancer = enhancer
        super().__init__(
            networks,
            open_loras(loras, partial(table_recipe, networks)),
            open_loras(stage2_loras, partial(table_recipe, networks)),
            numerics=numerics,
            execution=execution,
            dfr=dfr.opened(),
        )

    @classmethod
    def embedded(cls, **options: Any) -> LTX2Pipeline:
        """Make a pipeline of the tiny model set in this package, which generates a world of coloured shapes.

        Its networks have the architecture of the released models. ``options`` are keyword arguments of the
        class.
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

        ``options`` are the keywords of :class:`Request`; the recipe (default settings) of the checkpoint
        fills in those that are missing. The prompt may be left out if ``prompt_embeds`` is passed.
        ``conditioning`` items, such as regions of a source, are applied in their order, after the inputs of
        the request; ``given`` is the old name of this argument in version 0.1. ``on_step`` is called with a
        :class:`Progress` at the start of each stage and after each step. ``stop`` is called before every
        block of every forward pass; if it returns True, the run ends with :class:`Stopped`.

        Raises TypeError for unknown options, ValueError for what these files cannot sample.
        """
        check_functions(on_step=on_step, stop=stop)
        original = request_of(prompt, options)
        extra = (*listed("conditioning", conditioning), *listed("given", given))
        # What the recipe chose is recorded with the clip, apart from what was asked for.
        request, chosen = original.with_recipe(self.recipe)
        run = Run(on_step, stop)
        stages = self.check(request, further=bool(extra), source=source_size(extra))
        plan = self._memory_plan(request, stages, source_size(extra))
        files, predicted_s = file_records(request), None
        # Text first: unless networks are held, its encoder is freed before the transformer is loaded.
        with self.networks.clock.timed("text"):
            contexts = stage_contexts(self, request.text, stages, run)
            if request.size.auto:
                predicted_s = predict_seconds(self.networks, contexts[0][0])
                request = with_length(request, predicted_s)
                # Size and memory were checked for the usual length.
                stages = self.check(request, further=bool(extra), source=source_size(extra))
                plan = self._memory_plan(request, stages, source_size(extra))
        input_audio = read_input_audio(request, stages[0])
        whole = [stage for stage in stages if stage.tile is None]
        if request.staging.pipeline is not None:
            request = at_frames(request, asked_clip(stages))
        items = encoded_inputs(self, request, whole, input_audio, run)
        for stage, more in zip(whole, items, strict=True):
            more.extend(one.at(self, stage.clip) for one in extra)
        sampler = StageSampler(
            self.networks, request, run, speed=self.speed, numerics=self.numerics, plan=plan
        )
        if request.staging.pipeline is None:
            sampled = sample_stages(self, sampler, stages, items, contexts)
        else:
            scale = detail_scale(self.detail_lora)
            sampled = sample_dfr(DfrStages(self, sampler, contexts), stages, items, scale)
        return Generation(
            codecs=self,
            run_settings={
                **self.settings(),
                "recipe": {"name": self._recipe_of(request).name, "chose": list(chosen)},
                "conditioning": [describe(item) for item in extra],
                "inputs": files,
                **self.networks.decoder_settings,
                **dfr_files(request, self.temporal_upscaler, self.detail_lora),
                **({} if predicted_s is None else {"predicted_s": round(predicted_s, 3)}),
            },
            latents=sampled.latents,
            clip=stages[-1].finished,
            request=request,
            sigmas=tuple(tuple(round(v, 6) for v in s.sigmas.tolist()) for s in stages),
            input_audio=input_audio,
            evaluations=sampled.evaluations,
            keyframes=sampled.keyframes,
            after_sampling=sampler.noise_after(),
        )

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

        Yields all seeds of the first prompt, then those of the next one; with ``seeds`` None, one clip for
        each prompt with the seed of its request. Each clip equals that of a single call, bit for bit. All
        requests are checked before the first is sampled, and all prompts are encoded first. The transformer
        stays loaded until the iteration ends (with ``max_memory`` it is in system memory between its uses):
        to free it before decoding, collect all clips with ``list(...)`` first. ``on_step`` and ``stop`` work
        as in a call; stages are named "clip 2 of 8: stage 1". ``options`` are keywords of :class:`Request`
        for all clips.
        """
        each = [prompts] if isinstance(prompts, str | Request) else list(prompts)
        drawn: tuple[int | None, ...] = (None,) if seeds is None else tuple(seeds)
        plain = [request_of(prompt, options) for prompt in each]
        requests = [one if seed is None else one.changed(seed=seed) for one in plain for seed in drawn]
        for request in requests:
            self.check(request)
        return sample_each(self, requests, on_step, stop)

    def double_frames(self, video: Tensor) -> Tensor:
        """Double the frames of a video latent: (1, 128, F, H, W) -> (1, 128, 2F - 1, H, W), F latent frames.

        The latent is normalised. Raises ValueError if this pipeline has no ``temporal_upscaler``.
        """
        if self.temporal_upscaler is None:
            raise ValueError("no temporal upscaler is named: give temporal_upscaler=FILE")
        return doubled_frames(self.networks, self.temporal_upscaler, video)

    def encode_prompt(self, prompt: str, negative_prompt: str | None = None) -> PromptEmbeds:
        """Encode a prompt and a negative prompt once; pass them to any number of runs as ``prompt_embeds``.

        If ``negative_prompt`` is None, it is that of the checkpoint's recipe (its default settings). The
        result fits only the text networks, LoRAs and number format that made it; a run with others raises
        ValueError.
        """
        text = self.resolve(Request(prompt=prompt, negative_prompt=negative_prompt)).text
        return encode_prompts(self, text)

    def enhance_prompt(
        self,
        prompt: str,
        *,
        image: ImageSource | None = None,
        from_image: bool = False,
        seed: int = SEED,
        stop: Stop | None = None,
        check: bool = True,
    ) -> str:
        """Rewrite a short prompt to a full caption by the language model ``enhancer``, or the text encoder.

        Without an ``enhancer`` the text encoder does it, which must be a Gemma 3 then; that of LTX-2.5 cannot
        write text. ``image`` is the one that the clip begins with: a file, or an image in memory. It is given
        to a language model that takes images; another one is told in words that there is one, and the log
        warns of it, as with ``from_image`` alone. ``seed`` decides answers that are drawn at random, those of
        Gemma 3. ``stop`` is called after each token; if it returns True, the answer ends there. With
        ``check`` the answer is checked, and the result is ``prompt`` itself if it has a fault, such as a
        text that repeats itself or is about something else; the log has the reason. Raises ValueError if
        there is no language model.
        """
        pixels = None if image is None else read_image(image).clamp(0, 1)
        return enhance_prompt(
            self.networks,
            self.enhancer,
            prompt,
            image=pixels,
            from_image=from_image,
            seed=seed,
            stop=stop,
            check=check,
        ).prompt

    def save_diffusers(self, folder: str | os.PathLike[str]) -> None:
        """Write the model files of this pipeline, without LoRAs, as a new diffusers folder.

        Tensors are copied bit for bit, read back and compared. A diffusion decoder (``video_decoder``) is
        written in addition to the checkpoint's own decoder. Raises ValueError for quantised weights and for
        models that diffusers has no classes for.
        """
        files = self.networks
        decoders = () if files.video_decoder is None else (files.video_decoder,)
        save_diffusers(Path(folder), (*files.checkpoints, *decoders), files.text_encoder)


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
