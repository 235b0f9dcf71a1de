"""Inputs and outputs that the nodes of this room share."""

from __future__ import annotations

from comfy_api.latest import io

from ..clip.plan import Plan
from ..inputs import fps_input

CATEGORY = "LTX-2/editing"
EditType = io.Custom("LTX2AV_EDIT")


def source_inputs(purpose: str) -> list[io.Input]:
    """The clip to edit, and the VAE that encodes it."""
    return [
        io.Vae.Input("video_vae", tooltip="Video VAE that encodes the clip."),
        io.Image.Input("images", tooltip=f"Frames of the clip {purpose}, cut around the centre to the grid."),
        fps_input(""),
    ]


def audio_inputs(tooltip: str) -> list[io.Input]:
    """The audio of the clip to edit, and the VAE that encodes it."""
    return [
        io.Vae.Input(
            "audio_vae", optional=True, tooltip="Audio VAE that encodes the audio, if the clip has any."
        ),
        io.Audio.Input("audio", optional=True, tooltip=tooltip),
    ]


def prepared_outputs() -> list[io.Output]:
    """The outputs of a node that prepares an edit: latent, plan, edit (for LTX-2 Finish Edit), report."""
    return [
        io.Latent.Output(display_name="latent", tooltip="For the first LTX-2 Sample Stage."),
        Plan.Output(display_name="plan", tooltip="Frame rate and length of the run, for LTX-2 Prompt."),
        EditType.Output(display_name="edit", tooltip="For LTX-2 Finish Edit."),
        io.String.Output(display_name="report", tooltip="What is preserved and what is generated."),
    ]
