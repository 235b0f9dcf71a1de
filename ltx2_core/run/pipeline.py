"""Text, image and audio in, video with sound out, stage by stage.

Only what a stage needs is in memory; ``keep_loaded`` trades that memory for the time to load.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ..conditioning.items import Conditioning
from ..conditioning.state import drop_guides, empty_state
from ..config import transformer_config
from ..loading import Component, Lora, LoraReport
from ..memory import MemoryPlan
from ..sampling.caching import Evaluations
from ..sampling.denoiser import Denoiser
from ..sampling.noise import initial_state, make_noise
from ..sampling.samplers import get_sampler
from ..shapes import ClipPlan
from ..tiny import embedded_set
from ..transformer.fused import Fused
from ..types import AVLatent, LatentState, Numerics, TextContext
from .codecs import Codecs
from .components import Components, LoraFile, open_loras
from .distributed import Processes
from .execution import Speed
from .generation import Generation
from .inputs import conditioning, read_input_audio
from .progress import OnStep, Progress, Run, Stop, Stopped
from .request import Request, Stage, plan_stages

__all__ = ["Given", "LTX2Pipeline", "OnStep", "Progress", "Stop", "Stopped"]


class Given(Protocol):
    """Something given to every stage, encoded at the size of each."""

    def at(self, pipeline: LTX2Pipeline, clip: ClipPlan) -> Conditioning: ...


class LTX2Pipeline(Codecs):
    """LTX-2 from files, ready to be called.

    Raises ValueError for files that are not LTX-2, FileNotFoundError for missing ones.

    Args:
        checkpoints: official single file, or the files that together hold its components.
        text_encoder: folder or single file of the Gemma that belongs to it; a diffusers folder has its own.
        upscaler: latent upscaler file, for two stages.
        loras: (file, strength) or LoraSpec for every stage; ``stage2_loras`` for the second one besides.
        device, dtype: where and in what to compute; by default CUDA in bfloat16, else the CPU in float32.
        numerics: whose result to give where public implementations differ.
        keep_loaded: keep networks in memory between stages and calls.
        passes_per_call: how many passes of guidance one call of the transformer evaluates; more are faster on
            a GPU with room to spare, with the same result. In float32 on the CPU they always go one by one,
            and the result is the same bit for bit.
        max_memory: bytes of the device that a run may use; it is planned so that it keeps to them, where
            blocks do not fit by copying them there in turn. With ``keep_loaded`` networks then wait in system
            memory.
        fused: take elementwise operations of the transformer several at once; faster on a GPU after the first
            step, which compiles them, and rounds otherwise in the last bits.
        keep_text_keys: compute the keys and values of the text once for each prompt and not in every step,
            with the same result; 1.2 GB a prompt for LTX-2.0 in bfloat16. Later models make them anew at
            every noise level, and nothing is kept.
        processes: what is this process's where several make one clip (``join_processes``); each calls the
            pipeline in the same way and gets the same latents.
        cuda_graphs: record the blocks of short clips on CUDA and replay them, which saves the launches of
            their kernels; where that cannot be, steps are computed as ever.
        fp8_blocks: hold the large layers of all blocks but the first and the last in fp8, with a scale a row,
            and multiply them so: half the memory, faster, and rounded; where the device cannot, it is left
            out and ``networks.fp8_problem`` says why.
        fp8_matmul, nvfp4_matmul: multiply layers stored so as they are, which rounds their input;
            a ValueError where the device cannot.
    """

    def __init__(
        self,
        *checkpoints: str | os.PathLike[str],
        text_encoder: str | os.PathLike[str] | None = None,
        upscaler: str | os.PathLike[str] | None = None,
        loras: Sequence[LoraFile] = (),
        stage2_loras: Sequence[LoraFile] = (),
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        numerics: Numerics = Numerics.OFFICIAL,
        keep_loaded: bool = False,
        passes_per_call: int = 1,
        fp8_matmul: bool = False,
        nvfp4_matmul: bool = False,
        max_memory: int | None = None,
        fused: bool = False,
        keep_text_keys: bool = False,
        cuda_graphs: bool = False,
        fp8_blocks: bool = False,
        processes: Processes | None = None,
    ) -> None:
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        networks = Components(
            (*checkpoints, *(() if upscaler is None else (upscaler,))),
            text_encoder,
            device=device,
            dtype=dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32),
            numerics=numerics,
            keep_loaded=keep_loaded,
            fp8_matmul=fp8_matmul,
            nvfp4_matmul=nvfp4_matmul,
            max_memory=max_memory,
            fp8_blocks=fp8_blocks,
        )
        super().__init__(networks, open_loras(loras))
        self.stage2_loras = open_loras(stage2_loras)
        self.numerics = numerics
        self.speed = Speed(
            passes_per_call=passes_per_call,
            fused=Fused() if fused else None,
            keep_text_keys=keep_text_keys,
            cuda_graphs=cuda_graphs,
            processes=Processes() if processes is None else processes,
        )

    @classmethod
    def embedded(cls, **options: Any) -> LTX2Pipeline:
        """The tiny set that ships with the package: every part real, the pictures not."""
        files = embedded_set()
        return cls(files.checkpoint, text_encoder=files.text_encoder, upscaler=files.upsampler, **options)

    def __call__(
        self,
        prompt: str | Request,
        *,
        given: Sequence[Given] = (),
        on_step: OnStep | None = None,
        stop: Stop | None = None,
        **options: Any,
    ) -> Generation:
        """Sample a clip; ``options`` are the fields of :class:`Request`. It is decoded when asked for.

        ``given`` is applied after the image and the audio of the request, in its order.
        ``on_step`` hears of every stage and step. ``stop`` is asked before every block of every evaluation,
        and ends the run with :class:`Stopped` when it says True.
        """
        request = prompt if isinstance(prompt, Request) else Request(prompt=prompt, **options)
        run = Run(on_step, stop)
        stages = plan_stages(request, self.numerics)
        self._check_files(request, stages, given)
        if request.cache is not None and self.speed.processes != Processes():
            raise ValueError(
                "a step cache decides by what one process sees: use it without several processes"
            )
        plan = None if self.networks.max_memory is None else self.plan(stages, self.networks.max_memory)
        if plan is not None and not plan.fits:
            raise ValueError(plan.shortage)
        contexts = self._contexts(request, stages, run)
        input_audio = read_input_audio(request, stages[-1])
        items = conditioning(self, request, stages, input_audio, run)
        for stage, more in zip(stages, items, strict=True):
            more.extend(one.at(self, stage.clip) for one in given)

        start_noise = torch.Generator(request.noise_device).manual_seed(request.seed)
        # The official samplers draw theirs from a generator of its own, this far from the seed.
        step_noise = torch.Generator(request.noise_device).manual_seed((request.seed + 10000) % 2**64)
        latents = request.latents
        kept_audio: Tensor | None = None
        evaluations: list[Evaluations] = []
        for index, stage in enumerate(stages):
            if index and latents is not None:
                run.report(f"upscale to {stage.clip.width}x{stage.clip.height}", 0, 1)
                latents = self.upsample(latents)
            state = self._state(stage, latents, video=request.video)
            for item in items[index]:
                state = item.apply(state)
            latents, used = self._sample(
                index, stage, state, *contexts[index], request, start_noise, step_noise, run, plan
            )
            evaluations.append(used)
            latents = drop_guides(latents, state)
            if index == 0 and self._audio_stage(request, stages) == 1:
                kept_audio = latents.audio
        assert latents is not None
        if kept_audio is not None:
            latents = replace(latents, audio=kept_audio)
        return Generation(
            codecs=self,
            run_settings=self.settings(),
            latents=latents,
            clip=stages[-1].clip,
            request=request,
            sigmas=tuple(tuple(round(v, 6) for v in s.sigmas.tolist()) for s in stages),
            input_audio=input_audio,
            evaluations=tuple(evaluations),
        )

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
        """What each LoRA changes, told from headers. Raises ValueError where one fits nowhere."""
        return tuple(self.networks.lora_report(lora) for lora in (*self.loras, *self.stage2_loras))

    def plan(self, stages: Sequence[Stage], budget: int) -> MemoryPlan:
        """How ``stages`` would run within ``budget`` bytes of the device, told from headers."""
        return self.networks.plan(
            [stage.clip for stage in stages],
            budget=budget,
            batch=self.speed.batch(stages),
            text_keys=self.text_keys_bytes(stages),
        )

    def text_keys_bytes(self, stages: Sequence[Stage]) -> int:
        """What ``keep_text_keys`` adds to ``stages``; 0 where it is off or the model does not allow it."""
        config = transformer_config(self.networks.file(Component.TRANSFORMER).config)
        return self.speed.text_keys_bytes(stages, config, self.networks.dtype)

    def _check_files(self, request: Request, stages: Sequence[Stage], given: Sequence[Given]) -> None:
        """Find every component that the run will need before anything is computed."""
        needed = [Component.TEXT_PROJECTION, Component.TEXT_CONNECTORS, Component.TRANSFORMER]
        needed += [Component.VIDEO_DECODER, Component.AUDIO_DECODER, Component.VOCODER]
        if len(stages) > 1:
            needed.append(Component.UPSAMPLER)
        if len(stages) > 1 or request.image is not None or given:
            needed.append(Component.VIDEO_ENCODER)
        if request.audio is not None or request.reference_audio is not None:
            needed.append(Component.AUDIO_ENCODER)
        for component in needed:
            self.networks.file(component)
        self.lora_reports()

    def _stage_loras(self, index: int) -> tuple[Lora, ...]:
        return self.loras + (self.stage2_loras if index else ())

    def _contexts(
        self, request: Request, stages: Sequence[Stage], run: Run
    ) -> list[tuple[TextContext, TextContext | None]]:
        """Those of each stage; the second has its own where its LoRAs change how text is read."""
        negative = request.negative_prompt if any(s.needs_negative for s in stages) else None
        text = {Component.TEXT_CONNECTORS, Component.TEXT_PROJECTION}
        contexts: list[tuple[TextContext, TextContext | None]] = []
        for index in range(len(stages)):
            if index == 0 or any(text & lora.components for lora in self.stage2_loras):
                loras = self._stage_loras(index)
                contexts.append(self.encode_text(request.prompt, negative, loras=loras, run=run))
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
                dtype=self.networks.dtype,
                passes_per_call=self.speed.passes_per_call,
                pass_group=self.speed.processes.passes,
                cache=request.cache,
                tiles=request.tiles,
                sigmas=stage.sigmas,
                text_keys=self.speed.keep_text_keys,
                on_block=lambda block: run.check(),
            )
            noise = make_noise(state.latent, start_noise)
            x = initial_state(state, noise, float(stage.sigmas[0]), self.numerics)
            latents = get_sampler(stage.sampler, eta=stage.eta)(
                denoise,
                x,
                stage.sigmas,
                lambda step, steps, x0: run.report(name, step, steps, x0),
                generator=step_noise,
                keep=denoise.keep,
            )
            return latents, denoise.evaluations

    def _audio_stage(self, request: Request, stages: Sequence[Stage]) -> int:
        if request.audio_stage is not None:
            return request.audio_stage
        return 1 if stages[0].guided and self.numerics is Numerics.OFFICIAL else 2
