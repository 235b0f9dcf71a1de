"""Samples the stages of a run: one, two with an upscaler between them, or those of the DFR pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from ..conditioning.items import Conditioning
from ..conditioning.slots import generated_keyframes
from ..conditioning.state import drop_guides
from ..loading import Component
from ..sampling.caching import Evaluations
from ..types import AVLatent
from .dfr import DfrRun
from .dfr_stages import DfrStages
from .planner import Planner
from .prompt_embeds import Contexts
from .request import Request
from .split_stage import sample_split
from .stage_sampler import StageSampler
from .stages import Stage


class Sampled(NamedTuple):
    """The result of sampling all stages of a run.

    ``latents`` are those of the finished clip, ``evaluations`` the forward passes of each stage.
    ``keyframes`` (1, 128, K, H, W) are the latents of the K keyframes that the first stage generated next to
    the clip; None without any.
    """

    latents: AVLatent
    evaluations: tuple[Evaluations, ...]
    keyframes: Tensor | None


def sample_stages(
    models: Planner,
    sampler: StageSampler,
    stages: Sequence[Stage],
    items: Sequence[Sequence[Conditioning]],
    contexts: Sequence[Contexts],
) -> Sampled:
    """Sample all stages, a second one from the upscaled result of the first.

    ``items`` are the conditioning of each stage, ``contexts`` its encoded prompts.
    """
    request, run = sampler.request, sampler.run
    latents = request.inputs.latents
    first_audio: Tensor | None = None
    evaluations: list[Evaluations] = []
    keyframes: Tensor | None = None
    for index, stage in enumerate(stages):
        if index and latents is not None:
            run.report(f"upscale to {stage.clip.width}x{stage.clip.height}", 0, 1)
            latents = models.upsample(latents, adain=stage.adain)
        if stage.split > 1:
            assert latents is not None
            latents, used = _sample_tiles(models, sampler, index, stage, latents, items, contexts)
            evaluations.append(used)
            continue
        state = sampler.state(stage, latents)
        # In every stage, since the upscaler blurs images that were put in place.
        for item in items[index]:
            state = item.apply(state)
        latents, used = sampler.sample(index, stage, state, contexts[index], models.stage_loras(index))
        evaluations.append(used)
        # The official pipelines generate keyframes in the first stage.
        if index == 0:
            keyframes = generated_keyframes(latents, state)
        # Guides are extra tokens, which neither the upscaler nor the decoder takes.
        latents = drop_guides(latents, state)
        # The second stage samples audio all the same, because both streams attend to each other; its
        # result is exchanged at the end.
        if index == 0 and _audio_stage(models, request, stages) == 1:
            first_audio = latents.audio
    assert latents is not None
    if first_audio is not None:
        latents = replace(latents, audio=first_audio)
    return Sampled(latents, tuple(evaluations), keyframes)


def _sample_tiles(
    models: Planner,
    sampler: StageSampler,
    index: int,
    stage: Stage,
    latents: AVLatent,
    items: Sequence[Sequence[Conditioning]],
    contexts: Sequence[Contexts],
) -> tuple[AVLatent, Evaluations]:
    """Sample ``stage``, number ``index``, in tiles from ``latents``, the video of the stage before it.

    Returns the video, and the calls of the transformer in all tiles. Raises ValueError for audio, which
    no tile has a part of.
    """
    calls: list[Evaluations] = []

    def sample(tile: Stage, part: Tensor, conditions: Sequence[Conditioning]) -> Tensor:
        state = sampler.state(tile, AVLatent(part, None))
        for item in conditions:
            state = item.apply(state)
        if state.latent.audio is not None:
            raise ValueError("a stage that is divided into tiles generates video alone, without audio")
        made, used = sampler.sample(index, tile, state, contexts[index], models.stage_loras(index))
        calls.append(used)
        video = drop_guides(made, state).video
        assert video is not None
        return video

    assert latents.video is not None
    # One load serves all tiles.
    with models.networks.holding(Component.TRANSFORMER):
        video = sample_split(stage, latents.video, items[index], sample)
    return AVLatent(video, None), Evaluations(*map(sum, zip(*calls, strict=True)))


def sample_dfr(
    networks: DfrStages, stages: Sequence[Stage], items: Sequence[Sequence[Conditioning]], detail: int | None
) -> Sampled:
    """Sample all stages of the DFR pipeline.

    ``items`` are the conditioning of the first two stages. ``detail`` is how many times smaller than the clip
    the reference of the IC-LoRA that adds detail is encoded; None without one.
    """
    # One load serves all tiles; between them only the small upscalers run.
    with networks.sampler.networks.holding(Component.TRANSFORMER):
        made = DfrRun(networks, stages, items, detail).sample()
    return Sampled(made.latents, tuple(networks.calls), made.keyframes)


def _audio_stage(models: Planner, request: Request, stages: Sequence[Stage]) -> int:
    if request.staging.audio_stage is not None:
        return request.staging.audio_stage
    return 1 if stages[0].guided and not models.numerics.is_comfy else 2
