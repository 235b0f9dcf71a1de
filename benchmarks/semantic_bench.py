"""Generates, encodes and decodes the clips of the semantic benchmark with one checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ltx2_core import LTX2Pipeline
from ltx2_core.conditioning.items import Conditioning
from ltx2_core.conditioning.state import drop_guides, empty_state
from ltx2_core.loading import Component
from ltx2_core.run.lora_files import LoraFile, open_loras
from ltx2_core.run.request import NEGATIVE_PROMPT
from ltx2_core.sampling.denoiser import Denoiser
from ltx2_core.sampling.guidance import CFG
from ltx2_core.sampling.noise import initial_state, make_noise
from ltx2_core.sampling.samplers import sample_euler
from ltx2_core.sampling.schedules import DISTILLED_SIGMAS, ltxv_sigmas
from ltx2_core.shapes import plan_clip
from ltx2_core.training.world import FPS, Clip, Measured, measure, render_clip, sample_scene
from ltx2_core.training.world.batches import AUDIO_RATE, HELD_OUT
from ltx2_core.transformer import Runner
from ltx2_core.types import AVLatent, LatentState


@dataclass(frozen=True, kw_only=True)
class Files:
    """The files of a model set; None for parts that it does not have."""

    checkpoints: tuple[Path, ...]
    text_encoder: Path
    upscaler: Path | None
    distilled: Path | None
    edges: Path | None
    video_decoder: Path | None = None
    """The diffusion video VAE of LTX-2.5, whose decoder replaces that of the checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Number, size and length of clips, and how they are sampled."""

    clips: int
    width: int
    height: int
    frames: int
    steps: int
    cfg: float


class Missing(Exception):
    """A part of the table needs a file that the set does not have."""


class Bench:
    """Clips of one checkpoint; those that several parts of the table use are generated once."""

    def __init__(self, files: Files, settings: Settings, pipeline: LTX2Pipeline | None = None) -> None:
        self.files, self.settings = files, settings
        self.pipeline = pipeline or LTX2Pipeline(
            *files.checkpoints,
            text_encoder=files.text_encoder,
            upscaler=files.upscaler,
            video_decoder=files.video_decoder,
            keep_loaded=True,
        )

    def scenes(self, count: int | None = None, **parts: Any) -> list[Clip]:
        """Held-out clips with their truth; ``parts`` are fixed in all of them, see ``sample_scene``."""
        s = self.settings
        seeds = range(HELD_OUT, HELD_OUT + (s.clips if count is None else count))
        return [
            render_clip(
                sample_scene(seed, **parts), s.frames, s.width, s.height, AUDIO_RATE, caption_seed=seed
            )
            for seed in seeds
        ]

    @cached_property
    def truths(self) -> list[Clip]:
        return self.scenes()

    @cached_property
    def bounces(self) -> list[Clip]:
        return self.scenes(max(1, self.settings.clips // 2), motion="bounce")

    @cached_property
    def text_to_video(self) -> list[Measured]:
        return [self.generate(clip, index) for index, clip in enumerate(self.truths)]

    @cached_property
    def bouncing(self) -> list[Measured]:
        return [self.generate(clip, index) for index, clip in enumerate(self.bounces)]

    def request(self, clip: Clip, seed: int, **options: Any) -> dict[str, Any]:
        s = self.settings
        size = {"width": s.width, "height": s.height, "num_frames": s.frames, "fps": FPS}
        # The distilled schedule has its own number of steps and is trained for cfg 1.
        sampling = {} if options.get("distilled") else {"steps": s.steps, "cfg": s.cfg}
        return {"prompt": clip.caption, "seed": seed, **sampling, **size, **options}

    def generate(
        self, clip: Clip, seed: int, pipeline: LTX2Pipeline | None = None, **options: Any
    ) -> Measured:
        return measure(*self.frames_and_audio(clip, seed, pipeline, **options))

    def frames_and_audio(
        self, clip: Clip, seed: int, pipeline: LTX2Pipeline | None = None, **options: Any
    ) -> tuple[Tensor, Tensor, int]:
        generation = (pipeline or self.pipeline)(**self.request(clip, seed, **options))
        return torch.cat(list(generation.frames())), *generation.audio()

    def reconstruct(self, clip: Clip) -> Tensor:
        return self.decode(self.encode(clip.frames))

    def encode(self, frames: Tensor) -> Tensor:
        return self.pipeline.encode_video((frames + 1) / 2)

    def decode(self, latent: Tensor) -> Tensor:
        return torch.cat(list(self.pipeline.decode_video(latent)))

    def decode_audio(self, latent: Tensor) -> tuple[Tensor, int]:
        return self.pipeline.decode_audio(latent)

    def sample(
        self,
        prompt: str,
        seed: int,
        items: Sequence[Conditioning] = (),
        *,
        latent: AVLatent | None = None,
        mask: AVLatent | None = None,
        loras: Sequence[LoraFile] = (),
        distilled: bool = False,
    ) -> AVLatent:
        """Sample one stage as the pipeline does; ``latent`` is preserved where ``mask`` is 0."""
        s = self.settings
        plan = plan_clip(s.width, s.height, frames=s.frames, fps=FPS)
        state = empty_state(plan)
        if latent is not None and mask is not None:
            state = LatentState(latent=latent, mask=mask, fps=FPS)
        for item in items:
            state = item.apply(state)
        positive, negative = self.pipeline.encode_text(prompt, NEGATIVE_PROMPT)
        sigmas = DISTILLED_SIGMAS if distilled else ltxv_sigmas(s.steps)
        scale = 1.0 if distilled else s.cfg
        with self.pipeline.networks.use(Component.TRANSFORMER, open_loras(loras)) as transformer:
            run = Runner(transformer)
            denoise = Denoiser(run, state, positive, negative, guidance=CFG(video=scale, audio=scale))
            noise = make_noise(state.latent, seed)
            x = sample_euler(denoise, initial_state(state, noise, float(sigmas[0])), sigmas)
        return drop_guides(x, state)

    def with_loras(self, *loras: LoraFile) -> LTX2Pipeline:
        return LTX2Pipeline(
            *self.files.checkpoints,
            text_encoder=self.files.text_encoder,
            upscaler=self.files.upscaler,
            loras=loras,
            video_decoder=self.files.video_decoder,
            keep_loaded=True,
        )
