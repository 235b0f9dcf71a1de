"""What is judged of a run before any model is read."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike, fspath
from typing import Any

from ..conditioning.inputs import VideoReference
from ..loading import Component, Lora
from ..media import load_image, read_audio, read_video
from ..sampling.noise import check_noise
from ..shapes import ClipPlan
from .components import Components
from .inputs import reference_scale
from .request import Request
from .stages import Stage


def check_components(
    networks: Components, request: Request, stages: Sequence[Stage], *, further: bool
) -> None:
    """Find every component that the run needs; ``further`` says that it has conditioning of its own.

    Raises ValueError for one that is in none of the files.
    """
    inputs = request.inputs
    needed = [Component.TEXT_PROJECTION, Component.TEXT_CONNECTORS, Component.TRANSFORMER]
    needed += [Component.VIDEO_DECODER, Component.AUDIO_DECODER, Component.VOCODER]
    if len(stages) > 1:
        needed.append(Component.UPSAMPLER)
    if len(stages) > 1 or inputs.image.source is not None or inputs.images or inputs.references or further:
        needed.append(Component.VIDEO_ENCODER)
    if inputs.audio.source is not None or inputs.reference_audio.source is not None:
        needed.append(Component.AUDIO_ENCODER)
    for component in needed:
        networks.file(component)


def check_inputs(request: Request, stages: Sequence[Stage], loras: Sequence[Lora]) -> None:
    """Open every file that ``request`` names, for a run of ``stages`` with ``loras``.

    Raises FileNotFoundError for a missing one, ValueError for one that cannot be used, such as a control video
    that is shorter than the clip, and for noise of another shape.
    """
    inputs, clip = request.inputs, stages[-1].clip
    if inputs.noise is not None:
        check_noise(inputs.noise, stages[0].clip, video=request.size.video)
    for image in (inputs.image.source, *(one.source for one in inputs.images)):
        if _is_file(image):
            load_image(image)
    for audio, start_s in (
        (inputs.audio.source, inputs.audio.start_s),
        (inputs.reference_audio.source, 0.0),
    ):
        if _is_file(audio):
            # A tenth of a second tells whether there is audio at all.
            read_audio(audio, start_s=start_s, duration_s=0.1)
    for reference in inputs.references:
        check_length(reference, clip)
        for stage in stages:
            reference_scale(reference, loras, stage.clip)


def check_length(reference: VideoReference, clip: ClipPlan) -> None:
    """Raise ValueError for a control or reference video that is shorter than the clip."""
    source = reference.source
    frames = read_video(source).frame_count if _is_file(source) else len(source)
    if frames < clip.frames:
        named = f" {fspath(source)}" if _is_file(source) else ""
        raise ValueError(
            f"the reference{named} has {frames} frames and the clip {clip.frames}: use a longer reference or a "
            "shorter clip"
        )


def _is_file(source: Any) -> bool:
    return isinstance(source, str | PathLike)
