"""A node that encodes a prompt for the whole clip and prompts for its parts."""

from __future__ import annotations

from comfy_api.latest import io

from ...ltx2_core.run.request import NEGATIVE_PROMPT
from ...ltx2_core.shapes import ClipPlan
from ...ltx2_core.text.prompt import Prompt
from ..host.prompt_parts import with_parts
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
    ) -> io.NodeOutput:
        rate = fps if plan is None else plan.fps
        texts = Prompt(prompt=prompt, at=parts).by_time(None if plan is None else plan.seconds)
        encoded = encode_parts(clip, prompt, texts, fade, rate)
        return io.NodeOutput(encoded, encode_prompt(clip, negative, rate))


def encode_parts(
    clip: Clip, whole: str, parts: tuple[tuple[float, str], ...], fade_s: float, fps: float
) -> Conditioning:
    """Encode the texts of the parts of a clip, (start in seconds, text), to one CONDITIONING.

    ``whole`` is the text for tokens outside of the clip's time; if it is empty, that of the first part is. A
    single part is a plain prompt. Raises ValueError if ``clip`` is None.
    """
    first = whole if whole.strip() and len(parts) > 1 else parts[0][1]
    made = {first: encode_prompt(clip, first, fps)}
    if len(parts) == 1:
        return made[first]
    for _, text in parts:
        if text not in made:
            made[text] = encode_prompt(clip, text, fps)
    return with_parts(made[first], [(start, made[text]) for start, text in parts], fade_s)
