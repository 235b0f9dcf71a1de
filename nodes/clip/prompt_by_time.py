"""A node that encodes a prompt for the whole clip and prompts for its parts."""

from __future__ import annotations

from functools import partial

from comfy_api.latest import io

from ...ltx2_core.run.request import NEGATIVE_PROMPT
from ...ltx2_core.shapes import ClipPlan
from ...ltx2_core.text.prompt import METHODS, Method, Prompt
from ..host.prompt_parts import token_counts, with_parts, with_relay
from ..host.values import Clip, Conditioning
from ..inputs import fps_input, plan_input, text_encoder_input
from ..quantity import quantity
from .prompt import encode_prompt

MAX_FADE = 60.0


class LTX2AVPromptByTime(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVPromptByTime",
            display_name="LTX-2 Prompt By Time",
            search_aliases=[
                "prompt relay",
                "prompt schedule",
                "several shots",
                "timed prompt",
                "timeline",
                "multi prompt",
                "prompt travel",
            ],
            category="LTX-2/conditioning",
            description="Encodes a prompt for the whole clip and prompts for its parts, each for the frames "
            "and the audio of its time. In place of LTX-2 Prompt.",
            inputs=[
                text_encoder_input(),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What holds for the whole clip: subject, place, look. It comes before the prompt "
                    "of each part. May be empty.",
                ),
                io.String.Input(
                    "parts",
                    multiline=True,
                    dynamic_prompts=True,
                    default="0: \n50%: ",
                    tooltip="One line for each part: its beginning (2.5, 0:30 or 50%), a colon and its "
                    "prompt. Percent needs a plan.",
                ),
                io.String.Input(
                    "negative",
                    multiline=True,
                    default=NEGATIVE_PROMPT,
                    tooltip="What to avoid in the whole clip. It has no effect where cfg is 1.",
                ),
                quantity(
                    "prompt_fade",
                    0.3,
                    name="fade",
                    high=MAX_FADE,
                    step=0.05,
                    text="Seconds around the beginning of a part in which its prompt and the one before are "
                    "mixed; 0 changes at once",
                ),
                fps_input("The model assumes it. A connected plan overrides it."),
                plan_input("Takes the frame rate and the length from an LTX-2 Clip Plan."),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default="separate",
                    optional=True,
                    tooltip="separate encodes each part by itself. relay encodes all in one text and draws "
                    "each moment to its words, as Prompt Relay does, without fade; relay_wdc does so with "
                    "the narrower times of WhatDreamsCost and needs a plan.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="For the sampler's positive."),
                io.Conditioning.Output(display_name="negative", tooltip="For the sampler's negative."),
            ],
        )

    @classmethod
    def execute(
        cls,
        clip: Clip,
        prompt: str,
        parts: str,
        negative: str,
        fade: float,
        fps: float,
        plan: ClipPlan | None = None,
        method: Method = "separate",
    ) -> io.NodeOutput:
        rate = fps if plan is None else plan.fps
        text = Prompt(prompt=prompt, at=parts, fade_s=fade, method=method)
        encoded = encode_parts(clip, text, None if plan is None else plan.seconds, rate)
        return io.NodeOutput(encoded, encode_prompt(clip, negative, rate))


def encode_parts(clip: Clip, text: Prompt, seconds: float | None, fps: float) -> Conditioning:
    """Encode the prompts by time of ``text`` for a clip of ``seconds`` (None: unknown) to one CONDITIONING.

    What lies outside of the clip's time has the prompt of the whole clip, or without one that of the first
    part. A single part is a plain prompt. Raises ValueError for prompts that cannot be read, and if ``clip``
    is None.
    """
    parts = text.by_time(seconds)
    if text.method != "separate" and len(parts) > 1:
        joined, relay = text.relayed(seconds, partial(token_counts, clip))
        return with_relay(encode_prompt(clip, joined, fps), relay)
    first = text.prompt if text.prompt.strip() and len(parts) > 1 else parts[0][1]
    made = {first: encode_prompt(clip, first, fps)}
    if len(parts) == 1:
        return made[first]
    for _, part in parts:
        if part not in made:
            made[part] = encode_prompt(clip, part, fps)
    return with_parts(made[first], [(start, made[part]) for start, part in parts], text.fade_s)
