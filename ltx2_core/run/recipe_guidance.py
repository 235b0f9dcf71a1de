"""Converts a recipe (the default settings of a generation of models) to guidance, or to a sampling preset."""

from __future__ import annotations

from dataclasses import replace

from ..sampling.guidance import Guidance, StreamGuidance
from ..sampling.presets import LTXV, Preset
from .recipes import Recipe


def streams_of(recipe: Recipe) -> tuple[StreamGuidance, StreamGuidance]:
    """The guidance scales of ``recipe``, default settings of a generation of models, as (video, audio)."""
    video = StreamGuidance(cfg=recipe.cfg, stg=recipe.stg, modality=recipe.modality, rescale=recipe.rescale)
    return video, replace(video, cfg=recipe.audio_cfg)


def guidance_of(
    recipe: Recipe, *, cfg: float | None = None, audio_cfg: float | None = None, identity: float = 0.0
) -> Guidance:
    """The guidance of ``recipe``, default settings of a generation of models, with other scales.

    ``audio_cfg`` replaces the recipe's scale of classifier-free guidance for the audio; None leaves it.
    ``cfg`` replaces that for the video, and that for the audio too if ``audio_cfg`` is None; None leaves
    them. ``identity`` is the guidance scale of both towards a reference audio, 0 without one.
    """
    video, audio = streams_of(recipe)
    if cfg is not None:
        video, audio = replace(video, cfg=cfg), replace(audio, cfg=cfg)
    if audio_cfg is not None:
        audio = replace(audio, cfg=audio_cfg)
    return Guidance(
        video=replace(video, identity=identity),
        audio=replace(audio, identity=identity),
        stg_blocks=recipe.stg_blocks,
    )


def preset_of(recipe: Recipe) -> Preset:
    """The schedule, sampler and guidance of ``recipe`` for the first sampling stage, as a preset.

    A recipe is the default settings of a generation of models.
    """
    video, audio = streams_of(recipe)
    return Preset(
        schedule=recipe.sigmas or LTXV,
        steps=recipe.steps,
        sampler=recipe.sampler,
        eta=recipe.eta,
        video=video,
        audio=audio,
    )
