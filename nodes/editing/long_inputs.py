"""Inputs of the node LTX-2 Long Video: its windows, their conditioning, and a source clip."""

from __future__ import annotations

from comfy_api.latest import io

from ..inputs import MAX_STRENGTH, downscale_input, iclora_parameters_input, strength_input
from ..quantity import quantity

SOURCE = {"video": "the source"}
"""The flag of the source, as the tooltips name it."""


def window_inputs() -> list[io.Input]:
    """Create the widgets for the windows of the clip: their length, overlap and folder."""
    return [
        quantity("window_frames", 121, low=17, high=100001, step=8, more="Memory grows with it."),
        quantity(
            "overlap_frames", 24, low=16, high=100000, step=8, more="More preserves motion and audio better."
        ),
        quantity("overlap_strength", 1.0, step=0.01, more="Less regenerates it in part and cross-fades."),
        quantity("adain", 0.0, step=0.01, more="It works against drift."),
        io.String.Input(
            "folder",
            default="ltx2_long",
            tooltip="Folder for finished windows, within the output folder. Another name starts again.",
        ),
    ]


def conditioning_inputs() -> list[io.Input]:
    """Create the inputs for the images and the audio of the clip."""
    return [
        io.Image.Input("image", optional=True, tooltip="First image, or first clip of 8k + 1 frames."),
        io.Image.Input(
            "keyframes",
            optional=True,
            tooltip="Images that the clip reaches at the frames of keyframe_frames.",
        ),
        io.String.Input(
            "keyframe_frames",
            default="",
            optional=True,
            tooltip="The frame of each keyframe in the whole clip, such as 0, 240, -1.",
        ),
        strength_input(
            "keyframe_strength",
            1.0,
            "1 uses keyframes clean, less lets the model change them; more only adds attention.",
            optional=True,
        ),
        io.Vae.Input("audio_vae", optional=True, tooltip="Audio VAE that encodes the input audio."),
        io.Audio.Input(
            "audio",
            optional=True,
            tooltip="Audio that conditions the clip and goes into the file; without it audio is generated.",
        ),
    ]


def source_inputs() -> list[io.Input]:
    """Create the inputs for the source, a control video or a clip to edit, and for how strongly it counts."""
    return [
        io.Image.Input(
            "source",
            optional=True,
            tooltip="A clip at least as long: the control or reference video of an IC-LoRA, or what to "
            "start from.",
        ),
        quantity(
            "source_strength",
            1.0,
            high=MAX_STRENGTH,
            step=0.01,
            flags=SOURCE,
            more="1 uses it clean, less lets the model change it; more only adds attention.",
            optional=True,
        ),
        quantity(
            "denoise",
            1.0,
            low=0.01,
            step=0.01,
            flags=SOURCE,
            more="Less preserves more of it.",
            optional=True,
        ),
        downscale_input(
            "Encode the source this many times smaller; 0 takes it from iclora_parameters, or 1.",
            optional=True,
        ),
        iclora_parameters_input(),
    ]
