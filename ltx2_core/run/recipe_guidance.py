"""What a recipe (the default settings of a generation of models) stands for in sampling.

That is its guidance, and all its settings as a preset.
"""

from __future__ import annotations

from dataclasses import replace

from ..sampling.guidance import Guidance, StreamGuidance
from ..sampling.presets import LTXV, Preset
from .recipes import Recipe


def streams_of(recipe: Recipe) -> tuple[StreamGuidance, StreamGuidance]:
    """The guidance scales of (video, audio) in ``recipe``, the default settings of a generation of models."""
    video = StreamGuidance(cfg=recipe.cfg, stg=recipe.stg, modality=recipe.modality, rescale=recipe.rescale)
    return video, replace(video, cfg=recipe.audio_cfg)


def guidance_of(
    recipe: Recipe, *, cfg: float | None = None, audio_cfg: float | None = None, identity: float = 0.0
) -> Guidance:
    """The guidance of video and audio by ``recipe``, the default settings of a generation of models.

    ``cfg`` and ``audio_cfg`` replace the classifier-free guidance scales of video and audio; None keeps those
    of ``recipe``, but if only ``cfg`` is given, it replaces both. ``identity`` is the guidance scale of both
    towards a reference audio, 0 without one.
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
    """The settings of ``recipe`` for the first sampling stage as a preset: schedule, sampler and guidance.

    A recipe is the table of default settings of a generation of models.
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
