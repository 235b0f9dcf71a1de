"""A node that encodes a prompt to conditioning with the frame rate in it."""

from __future__ import annotations

import node_helpers
from comfy_api.latest import io

from ...ltx2_core.run.request import NEGATIVE_PROMPT
from ...ltx2_core.shapes import ClipPlan
from ..host.values import Clip, Conditioning
from ..inputs import fps_input, plan_input, text_encoder_input


class LTX2AVPrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVPrompt",
            display_name="LTX-2 Prompt",
            search_aliases=["clip text encode", "text", "negative prompt", "caption"],
            category="LTX-2/conditioning",
            description="Encodes the positive and the negative prompt and stores the frame rate with them.",
            inputs=[
                text_encoder_input(),
                io.String.Input(
                    "positive",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What happens, as one paragraph: subject, motion, camera, light, and everything "
                    "audible, spoken words in quotes.",
                ),
                io.String.Input(
                    "negative",
                    multiline=True,
                    default=NEGATIVE_PROMPT,
                    tooltip="What to avoid. It has no effect where cfg is 1.",
                ),
                fps_input(
                    "The model assumes it: at a higher rate things move less from "
                    "frame to frame. A connected plan overrides it."
                ),
                plan_input("Takes the frame rate from an LTX-2 Clip Plan, so that both always agree."),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="For the sampler's positive."),
                io.Conditioning.Output(display_name="negative", tooltip="For the sampler's negative."),
            ],
        )

    @classmethod
    def execute(
        cls, clip: Clip, positive: str, negative: str, fps: float, plan: ClipPlan | None = None
    ) -> io.NodeOutput:
        rate = fps if plan is None else plan.fps
        return io.NodeOutput(*(encode_prompt(clip, text, rate) for text in (positive, negative)))


def encode_prompt(clip: Clip, text: str, fps: float) -> Conditioning:
    """Encode a prompt to CONDITIONING that contains the frame rate ``fps``.

    Raises ValueError if ``clip``, the text encoder, is None.
    """
    if clip is None:
        raise ValueError(
            "there is no text encoder: LTX-2 checkpoints hold none, use LTX-2 Load All or LTX-2 Load Text "
            "Encoder"
        )
    conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(text))
    # The key of the host's LTXVConditioning, which its own network reads too.
    encoded: Conditioning = node_helpers.conditioning_set_values(conditioning, {"frame_rate": fps})
    return encoded
