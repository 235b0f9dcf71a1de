"""Inputs of the long video node: its windows, their conditioning, and a source to follow."""

from __future__ import annotations

from comfy_api.latest import io

from ..inputs import MAX_FRAMES, downscale_input, iclora_parameters_input, share_input, strength_input


def window_inputs() -> list[io.Input]:
    """How the clip is divided into windows."""
    return [
        io.Int.Input(
            "window_frames",
            default=121,
            min=17,
            max=MAX_FRAMES,
            step=8,
            tooltip="Length of a window, 8k + 1 frames: memory grows with it.",
        ),
        io.Int.Input(
            "overlap_frames",
            default=24,
            min=16,
            max=100000,
            step=8,
            tooltip="Frames that two windows share, a multiple of 8: more preserves motion and audio better.",
        ),
        share_input(
            "overlap_strength",
            1.0,
            "1 preserves the shared frames; less regenerates them in part and cross-fades.",
        ),
        share_input(
            "adain", 0.0, "Against drift: brings colours and contrast back towards the first window's."
        ),
        io.String.Input(
            "folder",
            default="ltx2_long",
            tooltip="Folder for finished windows, within the output folder. Another name starts again.",
        ),
    ]


def conditioning_inputs() -> list[io.Input]:
    """Images and audio of the clip."""
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
    """The clip that a control video or an edit of an IC-LoRA takes from, and how strongly it counts."""
    return [
        io.Image.Input(
            "source",
            optional=True,
            tooltip="A clip at least as long: the control or reference video of an IC-LoRA, or what to "
            "start from.",
        ),
        strength_input(
            "source_strength",
            1.0,
            "1 uses the source as a clean reference, less lets the model change it, 0 ignores it.",
            optional=True,
        ),
        share_input(
            "denoise",
            1.0,
            "Part of the schedule to run: below 1 starts from the source and preserves some of it.",
            low=0.01,
            optional=True,
        ),
        downscale_input(
            "Encode the source this many times smaller; 0 takes it from iclora_parameters, or 1.",
            optional=True,
        ),
        iclora_parameters_input(),
    ]
