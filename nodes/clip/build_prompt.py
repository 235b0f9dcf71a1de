"""A node that builds a prompt from named parts and words, and gives named sizes and lengths as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from comfy_api.latest import io, ui

from ...ltx2_core.run.prompt_parts import (
    FORMS,
    camera_moves,
    fields,
    named_seconds,
    named_size,
    named_strength,
    sound_words,
    tables,
    with_words,
)

NONE = "none"
"""Choice of a word that leaves it out."""
WORDS = ("camera", "dialogue", "ambient", "music", "effects")
"""Parts for which there is a choice of words, in a widget of this name with ``_word``."""


class LTX2AVBuildPrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVBuildPrompt",
            has_intermediate_output=True,
            display_name="LTX-2 Build Prompt",
            search_aliases=[
                "prompt builder",
                "prompt template",
                "camera move",
                "keywords",
                "720p",
                "1080p",
                "4k",
            ],
            category="LTX-2/conditioning",
            description="Builds a prompt from its parts and shows it. Empty parts are left out. Sizes, "
            "lengths and LoRA strengths have names.",
            inputs=[
                io.Combo.Input(
                    "form",
                    options=list(FORMS),
                    tooltip="The order of the parts, and whether they are joined by commas or sentences.",
                ),
                *(
                    io.String.Input(name, default="", tooltip=field["help"])
                    for name, field in fields().items()
                ),
                _word("camera", camera_moves(), "A camera move, before the text of camera."),
                _word(
                    "dialogue", sound_words("dialogue"), "How dialogue is spoken; its text is then quoted."
                ),
                _word("ambient", sound_words("ambient"), "What kind of ambient sound it is."),
                _word("music", sound_words("music"), "The style of the music."),
                _word("effects", sound_words("effects"), "A sound, before the text of effects."),
                io.Combo.Input(
                    "size",
                    options=list(cast("dict[str, str]", tables()["sizes"])),
                    tooltip="Size by its name, for LTX-2 Clip Plan: 1280 x 704, 1920 x 1088, 3840 x 2176.",
                ),
                io.Combo.Input(
                    "clip_length",
                    options=list(cast("dict[str, str]", tables()["seconds"]).values()),
                    tooltip="Length by its name: quick 6 s, standard 8 s, complex 10 s, long 20 s.",
                ),
                io.Combo.Input(
                    "lora_effect",
                    options=["subtle", "balanced", "strong"],
                    default="balanced",
                    tooltip="Strength of a LoRA by its effect: subtle 0.4, balanced 0.7, strong 1.05.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="prompt", tooltip="For positive of LTX-2 Prompt."),
                io.Int.Output(display_name="width", tooltip="Width of the named size."),
                io.Int.Output(display_name="height", tooltip="Height of the named size."),
                io.Float.Output(
                    display_name="seconds", tooltip="Named length, for length of LTX-2 Clip Plan."
                ),
                io.Float.Output(display_name="strength", tooltip="Named strength, for LTX-2 Load LoRA."),
            ],
        )

    @classmethod
    def execute(cls, form: str, size: str, clip_length: str, lora_effect: str, **parts: str) -> io.NodeOutput:
        words = {name: parts.pop(f"{name}_word") for name in WORDS}
        chosen = {name: "" if word == NONE else word for name, word in words.items()}
        prompt = FORMS[form](with_words(parts, **chosen))
        return io.NodeOutput(
            prompt,
            *named_size(size),
            named_seconds(clip_length),
            named_strength(lora_effect),
            ui=ui.PreviewText(prompt),
        )


def _word(part: str, words: Sequence[str], tooltip: str) -> io.Input:
    return io.Combo.Input(f"{part}_word", options=[NONE, *words], default=NONE, tooltip=tooltip)
