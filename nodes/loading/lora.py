"""A node that adds LoRAs of any naming style, with a strength for video and for audio, and a report."""

from __future__ import annotations

import math

from comfy_api.latest import io, ui

from ...ltx2_core.loading.lora import is_distilled
from ..host.lora import apply_lora
from ..host.recipe import recipe_of_model
from ..host.values import Clip, Model
from ..inputs import AS_ABOVE, LEFT_TO_MODEL, ICLoraParameters
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
            search_aliases=[
                "lora",
                "camera",
                "style",
                "distilled",
                "ic-lora",
                "control",
                "ic lora",
                "iclora",
                "camera control",
                "dolly",
                "union control",
            ],
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
                    "values do the opposite. See distilled_strength for distilled LoRAs.",
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
                io.Combo.Input(
                    "distilled_strength",
                    options=[LEFT_TO_MODEL, AS_ABOVE],
                    default=LEFT_TO_MODEL,
                    optional=True,
                    tooltip="Only for files with distilled in their name. by the model: strength 1 for "
                    "LTX-2.0, 0.5 from 2.3 on. as above: strength.",
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
        cls,
        model: Model,
        lora: str,
        strength: float,
        audio_strength: str = "",
        clip: Clip | None = None,
        # Not the default of the widget: prompts from before it existed lack it, and their strength counts.
        distilled_strength: str = AS_ABOVE,
    ) -> io.NodeOutput:
        path, reason = file_lists.LORAS.path(lora), ""
        # Nothing in a file tells distilled LoRAs from others, so its name has to.
        if distilled_strength == LEFT_TO_MODEL and is_distilled(path):
            recipe = recipe_of_model(model)
            strength, reason = recipe.distilled_lora, f"\n  strength of a distilled LoRA {recipe.reason}"
        applied = apply_lora(model, path, strength, audio_strength=_strength(audio_strength), clip=clip)
        report = applied.report + reason
        return io.NodeOutput(
            applied.model, report, applied.parameters, applied.clip, ui=ui.PreviewText(report)
        )


def _strength(text: str) -> float | None:
    """Parse a strength, a number from -10 to 10, in a text field; None if the field is empty.

    Raises ValueError for anything else.
    """
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
