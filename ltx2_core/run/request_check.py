"""Checks of a request whose values are allowed one by one but do not fit each other."""

from __future__ import annotations

from ..conditioning.inputs import Inputs
from ..sampling.settings import SamplingSettings, StageSettings
from ..shapes import ClipSize
from ..text.prompt import Prompt


def check_parts(
    text: Prompt, size: ClipSize, inputs: Inputs, sampling: SamplingSettings, staging: StageSettings
) -> None:
    """Raise ValueError if values of different parts of a request do not fit each other."""
    if staging.pipeline == "dfr" and not size.video:
        raise ValueError("the DFR pipeline generates video: leave pipeline_kind out for audio alone")
    if staging.pipeline == "dfr" and sampling.guidance is not None:
        raise ValueError("the DFR pipeline samples without guidance: leave guidance out")
    if not size.video and staging.count != 1:
        raise ValueError("audio alone is generated in one stage: give stages=1")
    if inputs.image.stage2_strength is not None and staging.count == 1:
        raise ValueError("stage2_image_strength has no effect on one stage: give stages=2, or leave it out")
    if staging.tiles > 1:
        _check_tiles(text, inputs, staging)
    if inputs.latents is not None and staging.count != 1:
        raise ValueError("latents are continued in one stage: give stages=1 and upscale between two calls")
    if size.auto and inputs.latents is not None:
        raise ValueError("latents have a length of their own: leave seconds='auto' out")
    if sampling.denoise != 1 and inputs.latents is None:
        raise ValueError(
            f"denoise={sampling.denoise} needs latents to preserve something of; give latents or denoise=1"
        )


def _check_tiles(text: Prompt, inputs: Inputs, staging: StageSettings) -> None:
    """Raise ValueError if the second stage cannot be divided into tiles."""
    if staging.count == 1 or staging.pipeline is not None:
        raise ValueError("stage2_tiles divides the second of two stages: give stages=2")
    if text.at is not None:
        raise ValueError("prompts_at is for stages that are sampled whole: give stage2_tiles=1")
    placed = inputs.image.source is not None or bool(inputs.images)
    if placed or inputs.audio.source is not None or inputs.reference_audio.source is not None:
        raise ValueError("stage2_tiles takes no image and no audio: leave them out, or give stage2_tiles=1")
