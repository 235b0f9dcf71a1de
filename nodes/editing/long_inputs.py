"""Widgets of the long video node: its windows, what is given to them, and a source to follow."""

from __future__ import annotations

from comfy_api.latest import io

from ..conditioning.guides import ICLoraParameters


def window_inputs() -> list[io.Input]:
    """How the clip is cut into windows."""
    return [
        io.Int.Input(
            "window_frames",
            default=121,
            min=17,
            max=100001,
            step=8,
            tooltip="Length of a window, 8k + 1 frames: memory follows it.",
        ),
        io.Int.Input(
            "overlap_frames",
            default=24,
            min=16,
            max=100000,
            step=8,
            tooltip="Frames that two windows share, a multiple of 8: more keeps motion and sound better.",
        ),
        io.Float.Input(
            "overlap_strength",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="1 goes on from the shared frames as they are; less renews them in part and fades over.",
        ),
        io.Float.Input(
            "adain",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Against drift: how far colours and contrasts are brought back to those of the first "
            "window.",
        ),
        io.String.Input(
            "folder",
            default="ltx2_long",
            tooltip="Where in the output folder finished windows are kept. Name another one to begin anew.",
        ),
    ]


def given_inputs() -> list[io.Input]:
    """Pictures and sound of the clip."""
    return [
        io.Image.Input("image", optional=True, tooltip="First image, or first clip of 8k + 1 frames."),
        io.Image.Input("keyframes", optional=True, tooltip="Images to pass on the way."),
        io.String.Input(
            "keyframe_frames",
            default="",
            optional=True,
            tooltip="The frame of each keyframe in the whole clip, such as 0, 240, -1.",
        ),
        io.Float.Input(
            "keyframe_strength",
            default=1.0,
            min=0.0,
            max=10.0,
            step=0.01,
            optional=True,
            tooltip="How firmly keyframes are held.",
        ),
        io.Vae.Input("audio_vae", optional=True, tooltip="Audio VAE that encodes a given sound."),
        io.Audio.Input(
            "audio",
            optional=True,
            tooltip="A sound that is kept as it is; without it the sound is made with the clip.",
        ),
    ]


def source_inputs() -> list[io.Input]:
    """A clip to follow."""
    return [
        io.Image.Input(
            "source",
            optional=True,
            tooltip="A clip at least as long: the control or reference video of an IC-LoRA, or what to "
            "start from.",
        ),
        io.Float.Input(
            "source_strength",
            default=1.0,
            min=0.0,
            max=10.0,
            step=0.01,
            optional=True,
            tooltip="How clean the source is shown as a reference; 0 does not show it.",
        ),
        io.Float.Input(
            "denoise",
            default=1.0,
            min=0.01,
            max=1.0,
            step=0.01,
            optional=True,
            tooltip="Part of the schedule to run: below 1 starts from the source and keeps as much of it.",
        ),
        io.Int.Input(
            "downscale",
            default=0,
            min=0,
            max=8,
            optional=True,
            tooltip="Show the source this many times smaller; 0 takes it from iclora_parameters, or 1.",
        ),
        ICLoraParameters.Input(
            "iclora_parameters",
            optional=True,
            tooltip="From Get IC-LoRA Parameters: the factor that the LoRA was trained with.",
        ),
    ]
