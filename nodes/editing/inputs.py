"""Inputs and outputs that several editing nodes share."""

from __future__ import annotations

from comfy_api.latest import io

from ..clip.plan import Plan
from ..inputs import fps_input, stages_input

CATEGORY = "LTX-2/editing"
EditType = io.Custom("LTX2AV_EDIT")


def source_inputs(purpose: str) -> list[io.Input]:
    """Create the inputs for the clip to edit, its frame rate, and the VAE that encodes it.

    ``purpose``, such as "to extend", is put into the tooltip of the clip.
    """
    return [
        io.Vae.Input("video_vae", tooltip="Video VAE that encodes the clip."),
        io.Image.Input("images", tooltip=f"Frames of the clip {purpose}, cut around the centre to the grid."),
        fps_input(""),
    ]


def staged_inputs(tooltip: str) -> list[io.Input]:
    """Create the inputs for the number of sampling stages, the clip's audio, and the VAE to encode it.

    Of two stages the first samples at half the width and height. ``tooltip`` is that of the audio.
    """
    return [
        stages_input("LTX-2 Next Stage", default=None),
        io.Vae.Input(
            "audio_vae", optional=True, tooltip="Audio VAE that encodes the audio, if the clip has any."
        ),
        io.Audio.Input("audio", optional=True, tooltip=tooltip),
    ]


def prepared_schema(
    *, node_id: str, display_name: str, search_aliases: list[str], description: str, inputs: list[io.Input]
) -> io.Schema:
    """Create the schema of a node that prepares an edit for sampling.

    All such nodes have the same outputs.
    """
    return io.Schema(
        node_id=node_id,
        has_intermediate_output=True,
        display_name=display_name,
        search_aliases=search_aliases,
        category=CATEGORY,
        description=description,
        inputs=inputs,
        outputs=[
            io.Latent.Output(display_name="latent", tooltip="For the first LTX-2 Sample Stage."),
            Plan.Output(display_name="plan", tooltip="Frame rate and length of the run, for LTX-2 Prompt."),
            EditType.Output(display_name="edit", tooltip="For LTX-2 Finish Edit."),
            io.String.Output(display_name="report", tooltip="What is preserved and what is generated."),
        ],
    )
