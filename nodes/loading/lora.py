"""A node that adds LoRAs of any naming style, with a strength for each stream and a report."""

from __future__ import annotations

import math

from comfy_api.latest import io, ui

from ..host.lora import apply_lora
from ..host.values import Clip, Model
from ..inputs import ICLoraParameters
from ..numbers import real_input
from . import file_lists
from .file_inputs import combo
from .loaders import CATEGORY


class LTX2AVLoadLora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVLoadLora",
            has_intermediate_output=True,
            display_name="LTX-2 Load LoRA",
            search_aliases=["lora", "camera", "style", "distilled", "ic-lora", "control"],
            category=CATEGORY,
            description="Adds a LoRA of any naming style to the model and reports how many of its layers "
            "matched. A LoRA of which no layer matches is an error instead of being ignored.",
            inputs=[
                io.Model.Input("model", tooltip="The model to add the LoRA to; it is not changed itself."),
                combo("lora", file_lists.LORAS, "LoRA file in models/loras."),
                real_input(
                    "strength",
                    default=1.0,
                    low=-10.0,
                    high=10.0,
                    step=0.05,
                    tooltip="How strongly the LoRA acts: more changes the model more, 0 is off, negative "
                    "values do the opposite. Distilled LoRAs: 1.0 for LTX-2.0, about 0.5 for 2.3.",
                ),
                io.String.Input(
                    "audio_strength",
                    default="",
                    optional=True,
                    tooltip="Strength of the layers that update the audio, from -10 to 10; empty means the "
                    "same as strength. 0 leaves these layers out.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="Text encoder, for the few LoRAs that also change how prompts are read: the "
                    "report says so. Encode the prompt with the clip that comes out.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model with the LoRA."),
                io.String.Output(display_name="report", tooltip="Which layers matched."),
                ICLoraParameters.Output(
                    display_name="iclora_parameters",
                    tooltip="For LTX-2 Add Guide: the factors of this IC-LoRA's reference.",
                ),
                io.Clip.Output(
                    display_name="clip", tooltip="The text encoder with the LoRA, if one is connected."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, lora: str | None = None) -> bool:
        return file_lists.check((file_lists.LORAS, lora))

    @classmethod
    def execute(
        cls, model: Model, lora: str, strength: float, audio_strength: str = "", clip: Clip | None = None
    ) -> io.NodeOutput:
        path = file_lists.LORAS.path(lora)
        applied = apply_lora(model, path, strength, audio_strength=_strength(audio_strength), clip=clip)
        return io.NodeOutput(
            applied.model, applied.report, applied.parameters, applied.clip, ui=ui.PreviewText(applied.report)
        )


def _strength(text: str) -> float | None:
    """Parse the number in a text field; None if it is empty. Raises ValueError for anything else."""
    try:
        value = float(text) if text.strip() else None
    except ValueError:
        # Caught by the comparison below, so that both mistakes have one message.
        value = math.nan
    if value is not None and not -10 <= value <= 10:
        raise ValueError(
            f"audio_strength={text!r} must be a number from -10 to 10, or empty for the same as strength"
        )
    return value
