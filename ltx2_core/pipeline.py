"""Text, image and audio in, video with sound out, stage by stage.

Only what a stage needs is in memory; ``keep_loaded`` trades that memory for the time to load.
Letters: B batch, N pictures or frames, C channels, S samples, H W pixel rows and columns.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Protocol

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from .audio import decode_audio, encode_audio, with_noise_floor
from .conditioning.items import AudioGiven, Conditioning, ImageInPlace
from .conditioning.reference import ReferenceSound
from .conditioning.state import drop_guides, empty_state
from .config import transformer_config
from .decoding import decode_chunks
from .generation import Generation
from .loading import Component, Lora, LoraReport
from .media import compress_image, fit_image, load_image, read_audio, to_signed
from .media.images import FitMode
from .memory import DecodeChoice, MemoryPlan
from .networks import LoraFile, Networks, open_loras
from .processes import Processes
from .request import Request, Stage, plan_stages
from .sampling.caching import Evaluations
from .sampling.denoiser import Denoiser
from .sampling.noise import initial_state, make_noise
from .sampling.samplers import get_sampler
from .shapes import SPATIAL_SCALE, ClipPlan, frames_of
from .text.connectors import CONTEXT_LENGTH
from .tiny import embedded_set
from .transformer import text_keys_bytes
from .transformer.fused import Fused
from .transformer.graphs import Graphs
from .transformer.packed import pack_projections
from .types import AVLatent, LatentState, Numerics, TextContext
from .upsampler import upsample_latent

ENCODED_AT_ONCE = 32
"""Frames that are brought to the device together."""


class Stopped(Exception):
    """The run was told to stop."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run is: ``step`` of ``steps`` are done in ``stage``; ``x0`` is the estimate while sampling."""

    stage: str
    step: int
    steps: int
    x0: AVLatent | None = None


class Given(Protocol):
    """Something given to every stage, encoded at the size of each."""

    def at(self, pipeline: LTX2Pipeline, clip: ClipPlan) -> Conditioning: ...


OnStep = Callable[[Progress], None]
Stop = Callable[[], bool]


class LTX2Pipeline:
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
        self.networks = Networks(
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
        self.numerics = numerics
        self.passes_per_call = passes_per_call
        self._fused = Fused() if fused else None
        self._cuda_graphs = cuda_graphs
        self.keep_text_keys = keep_text_keys
        self._processes = Processes() if processes is None else processes
        self.loras = open_loras(loras)
        self.stage2_loras = open_loras(stage2_loras)

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
        run = _Run(on_step, stop)
        stages = plan_stages(request, self.numerics)
        self._check_files(request, stages, given)
        if request.cache is not None and self._processes != Processes():
            raise ValueError(
                "a step cache decides by what one process sees: use it without several processes"
            )
        plan = None if self.networks.max_memory is None else self.plan(stages, self.networks.max_memory)
        if plan is not None and not plan.fits:
            raise ValueError(plan.shortage)
        contexts = self._contexts(request, stages, run)
        given_audio = self._read_audio(request, stages[-1])
        items = self._conditioning(request, stages, given_audio, run)
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
            pipeline=self,
            latents=latents,
            clip=stages[-1].clip,
            request=request,
            sigmas=tuple(tuple(round(v, 6) for v in s.sigmas.tolist()) for s in stages),
            given_audio=given_audio,
            evaluations=tuple(evaluations),
        )

    def lora_reports(self) -> tuple[LoraReport, ...]:
        """What each LoRA changes, told from headers. Raises ValueError where one fits nowhere."""
        return tuple(self.networks.lora_report(lora) for lora in (*self.loras, *self.stage2_loras))

    def encode_text(
        self,
        prompt: str,
        negative_prompt: str | None = None,
        *,
        loras: tuple[Lora, ...] | None = None,
        run: _Run | None = None,
    ) -> tuple[TextContext, TextContext | None]:
        """Contexts of the prompt and, if there is one, of the negative prompt.

        ``loras`` are by default those of every stage; few have layers for the text.
        """
        run = run or _Run(None, None)
        loras = self.loras if loras is None else loras
        prompts = [prompt] if negative_prompt is None else [prompt, negative_prompt]
        features = self.networks.encode(
            prompts, loras=loras, on_layer=lambda step, steps: run.report("text", step, steps)
        )
        with self.networks.use(Component.TEXT_CONNECTORS, loras) as connectors, torch.inference_mode():
            dtype = self.networks.dtype
            contexts = connectors(
                replace(features, video=features.video.to(dtype), audio=features.audio.to(dtype))
            )
        single = [
            TextContext(contexts.video[i : i + 1], contexts.audio[i : i + 1]) for i in range(len(prompts))
        ]
        return single[0], single[1] if negative_prompt is not None else None

    def encode_video(self, frames: Tensor) -> Tensor:
        """frames (N, 3, H, W) in [0, 1], N = 8k + 1 -> normalised latent (1, 128, k + 1, H / 32, W / 32).

        Only some of the frames are on the device at a time.
        """
        with self.networks.use(Component.VIDEO_ENCODER) as encoder, torch.inference_mode():
            encoder.check_frames(rearrange(frames, "n c h w -> 1 c n h w"))
            where = self.networks.device, self.networks.dtype
            chunks = (
                rearrange(to_signed(part), "n c h w -> 1 c n h w").to(*where)
                for part in frames.split(ENCODED_AT_ONCE)
            )
            latent = torch.cat(list(encoder.encode_stream(chunks)), dim=2)
        return latent.float()

    def encode_audio(self, waveform: Tensor, sample_rate: int, *, latent_frames: int | None = None) -> Tensor:
        """waveform (C, S) in [-1, 1] -> normalised latent (1, 8, T, 16), trimmed or padded with silence."""
        with self.networks.use(Component.AUDIO_ENCODER) as encoder:
            return encode_audio(
                encoder, waveform.to(self.networks.device), sample_rate, latent_frames=latent_frames
            )

    def upsample(self, latents: AVLatent, *, adain: float = 0.0) -> AVLatent:
        """The video at the upscaler's factor, usually twice the width and height; the audio as it is."""
        if latents.video is None:
            raise ValueError("there is no video to upscale in these latents")
        with (
            self.networks.use(Component.UPSAMPLER) as upsampler,
            self.networks.use(Component.VIDEO_ENCODER) as encoder,
            torch.inference_mode(),
        ):
            video = latents.video.to(self.networks.device, self.networks.dtype)
            video = upsample_latent(upsampler, video, encoder.per_channel_statistics, adain=adain)
        return replace(latents, video=video.float())

    def decode_video(
        self, latent: Tensor | Iterable[Tensor], *, as_bytes: bool = False, stop: Stop | None = None
    ) -> Iterator[Tensor]:
        """Normalised latent (1, 128, F, H, W), whole or in pieces -> chunks (N, 3, 32 H, 32 W) in [-1, 1].

        Exactly the whole clip's frames, with memory that does not depend on their number. With ``as_bytes``
        they are uint8, made so before they leave the device: a quarter of what there is to copy and to hold.
        """
        with self.networks.use(Component.VIDEO_DECODER) as decoder:
            pieces = iter((latent,) if isinstance(latent, Tensor) else latent)
            first = next(pieces, None)
            if first is None:
                raise ValueError("there is no latent to decode; give at least one piece")
            frames = frames_of(latent.shape[2]) if isinstance(latent, Tensor) else sys.maxsize
            where = self.networks.device, self.networks.dtype
            yield from decode_chunks(
                decoder,
                (piece.to(*where) for piece in chain((first,), pieces)),
                self._decode_choice(first, frames),
                as_bytes=as_bytes,
                check=_Run(None, stop).check,
            )

    def decode_audio(self, latent: Tensor) -> tuple[Tensor, int]:
        """Normalised latent (1, 8, T, 16) -> (waveform (2, S) in [-1, 1] on the CPU, sample rate in Hz)."""
        with (
            self.networks.use(Component.AUDIO_DECODER) as decoder,
            self.networks.use(Component.VOCODER) as vocoder,
        ):
            waveform, rate = decode_audio(decoder, vocoder, latent.to(self.networks.device))
        return waveform[0].cpu(), rate

    def plan(self, stages: Sequence[Stage], budget: int) -> MemoryPlan:
        """How ``stages`` would run within ``budget`` bytes of the device, told from headers."""
        batch = max(min(self.passes_per_call, len(stage.guidance.passes())) for stage in stages)
        left = max(1, budget - self.text_keys_bytes(stages))
        return self.networks.plan([stage.clip for stage in stages], budget=left, batch=batch)

    def text_keys_bytes(self, stages: Sequence[Stage]) -> int:
        """What ``keep_text_keys`` adds to ``stages``; 0 where it is off or the model does not allow it."""
        if not self.keep_text_keys:
            return 0
        passes = max(len(stage.guidance.passes()) for stage in stages)
        texts = 1 + any(stage.needs_negative for stage in stages)
        return text_keys_bytes(
            transformer_config(self.networks.file(Component.TRANSFORMER).config),
            self.networks.dtype,
            tokens=CONTEXT_LENGTH,
            # Passes that share a call are one text to the model.
            samples=texts if self.passes_per_call == 1 else passes,
        )

    def _decode_choice(self, latent: Tensor, frames: int) -> DecodeChoice | None:
        """How a clip of ``frames`` that begins with ``latent`` is decoded."""
        rows, columns = latent.shape[3:]
        clip = ClipPlan(width=columns * SPATIAL_SCALE, height=rows * SPATIAL_SCALE, frames=frames, fps=24.0)
        return self.networks.decode_choice(clip)

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
        self, request: Request, stages: Sequence[Stage], run: _Run
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

    def _read_audio(self, request: Request, stage: Stage) -> tuple[Tensor, int] | None:
        """The given sound, as long as the clip or shorter."""
        if request.audio is None:
            return None
        if not isinstance(request.audio, tuple):
            return read_audio(request.audio, start_s=request.audio_start_s, duration_s=stage.clip.seconds)
        waveform, rate = request.audio
        start = round(request.audio_start_s * rate)
        return waveform[:, start : start + round(stage.clip.seconds * rate)], rate

    def _conditioning(
        self,
        request: Request,
        stages: Sequence[Stage],
        audio: tuple[Tensor, int] | None,
        run: _Run,
    ) -> list[list[Conditioning]]:
        """What is given to each stage, encoded at its size."""
        items: list[list[Conditioning]] = [[] for _ in stages]
        if request.image is not None:
            run.report("image", 0, 1)
            frames = _pictures(request.image)
            for stage, given in zip(stages, items, strict=True):
                pixels = self._prepare(frames, stage, request.image_crf)
                given.append(ImageInPlace(latent=self.encode_video(pixels), strength=stage.image_strength))
        if request.reference_audio is not None:
            run.report("reference", 0, 1)
            voice = ReferenceSound(latent=self.encode_audio(*_reference(request)))
            for given in items:
                given.append(voice)
        if audio is not None:
            run.report("audio", 0, 1)
            latent = self.encode_audio(
                *_heard(audio, stages[0].clip, request.audio_noise_db),
                latent_frames=stages[0].clip.audio_latents,
            )
            for given in items:
                given.append(AudioGiven(latent=latent))
        return items

    def _prepare(self, frames: Tensor, stage: Stage, crf: int) -> Tensor:
        """Pictures at the stage's size; a single one goes through an H.264 round trip."""
        mode: FitMode = "comfy" if self.numerics is Numerics.COMFY else "official"
        if len(frames) == 1 and mode == "official":
            frames = compress_image(frames[0], crf)[None]
        frames = fit_image(frames, stage.clip.width, stage.clip.height, mode=mode)
        if len(frames) == 1 and mode == "comfy":
            frames = compress_image(frames[0], crf)[None]
        return frames

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
        run: _Run,
        plan: MemoryPlan | None,
    ) -> tuple[AVLatent, Evaluations]:
        name = f"stage {index + 1}"
        run.report(name, 0, len(stage.sigmas) - 1)
        with self.networks.use_transformer(self._stage_loras(index), plan) as transformer:
            transformer.fused, transformer.shards = self._fused, self._processes.shards
            if self._fused is not None and (plan is None or not plan.streamed):
                pack_projections(transformer.transformer_blocks)
            transformer.graphs = Graphs() if self._cuda_graphs else None
            denoise = Denoiser(
                transformer,
                state,
                positive,
                negative,
                guidance=stage.guidance,
                nag=stage.nag,
                numerics=self.numerics,
                dtype=self.networks.dtype,
                passes_per_call=self.passes_per_call,
                pass_group=self._processes.passes,
                cache=request.cache,
                tiles=request.tiles,
                sigmas=stage.sigmas,
                text_keys=self.keep_text_keys,
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


class _Run:
    """Progress out, the wish to stop in."""

    def __init__(self, on_step: OnStep | None, stop: Stop | None) -> None:
        self._on_step = on_step
        self._stop = stop

    def report(self, stage: str, step: int, steps: int, x0: AVLatent | None = None) -> None:
        self.check()
        if self._on_step is not None:
            self._on_step(Progress(stage=stage, step=step, steps=steps, x0=x0))

    def check(self) -> None:
        if self._stop is not None and self._stop():
            raise Stopped("the run was stopped")


def _heard(audio: tuple[Tensor, int], clip: ClipPlan, noise_db: float | None) -> tuple[Tensor, int]:
    """A given sound as the model hears it: over a noise floor, if any, until the end of the clip."""
    if noise_db is None:
        return audio
    waveform, rate = audio
    missing = max(0, math.ceil(clip.seconds * rate) - waveform.shape[1])
    return with_noise_floor(functional.pad(waveform, (0, missing)), noise_db), rate


def _reference(request: Request) -> tuple[Tensor, int]:
    """The beginning of the reference sound."""
    if not isinstance(request.reference_audio, tuple):
        assert request.reference_audio is not None
        return read_audio(request.reference_audio, duration_s=request.reference_s)
    waveform, rate = request.reference_audio
    return waveform[:, : round(request.reference_s * rate)], rate


def _pictures(image: Any) -> Tensor:
    """One picture or a clip as (N, 3, H, W) in [0, 1]."""
    if isinstance(image, Tensor) and image.ndim == 4 and image.shape[0] > 1:
        return image
    return load_image(image)
