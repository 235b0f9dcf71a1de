"""A node that rewrites a short prompt to a full caption, by the language model of a CLIP."""

from __future__ import annotations

from comfy_api.latest import io, ui
from torch import Tensor

from ...ltx2_core.text.enhance import SEED, Generation, WritingRules, enhanced
from ...ltx2_core.text.enhance_checks import Enhancement, checked
from ...ltx2_core.text.vision import with_soft_tokens
from ..host.text_model import HostTextModel
from ..host.values import Clip
from ..quantity import quantity

REPETITION_PENALTY = 1.15
"""Penalty for tokens that Gemma 4 has written before, as in core's templates.

ComfyUI's loop cannot forbid repeated sequences, as the official pipelines do.
"""


class LTX2AVEnhancePrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVEnhancePrompt",
            has_intermediate_output=True,
            display_name="LTX-2 Enhance Prompt",
            search_aliases=["prompt enhancer", "rewrite prompt", "llm", "gemma", "caption", "expand prompt"],
            category="LTX-2/conditioning",
            description="Rewrites a short prompt to the kind of caption that LTX-2 was trained on. Connect "
            "the text encoder of LTX-2.0 or 2.3; LTX-2.5 needs an instruction-tuned Gemma, such as Gemma 4 "
            "E2B.",
            inputs=[
                io.Clip.Input(
                    "clip",
                    lazy=True,
                    tooltip="Language model that writes: Gemma 3, or an instruction-tuned "
                    "Gemma 4 from ComfyUI's Load CLIP.",
                ),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What happens, in a few words. Quoted speech stays as it is.",
                ),
                io.Boolean.Input(
                    "from_image",
                    default=False,
                    tooltip="The clip begins with an image: only what follows it is described. Connect it to "
                    "image if the language model takes images.",
                ),
                io.Int.Input(
                    "max_tokens",
                    default=0,
                    min=0,
                    max=4096,
                    tooltip="Longest answer in tokens; 0 takes 512 for Gemma 3 and 600 for Gemma 4.",
                ),
                quantity(
                    "seed",
                    SEED,
                    low=0,
                    control_after_generate=True,
                    text="Seed of Gemma 3, which draws "
                    "its words at random; Gemma 4 always takes the most probable one",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="First frame of the clip, which the language model sees. It needs a CLIP of "
                    "ComfyUI's own loaders; this pack's loaders read only the text part of Gemma.",
                ),
                io.String.Input(
                    "edited",
                    multiline=True,
                    default="",
                    optional=True,
                    tooltip="The written text as you changed it; if it is not empty, it is the result and "
                    "nothing is written anew.",
                ),
                io.Boolean.Input(
                    "check",
                    default=True,
                    optional=True,
                    tooltip="Use the prompt as it is if the written text is empty, repeats itself, lacks "
                    "speech or names, or is about something else; the report says why.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="prompt", tooltip="For positive of LTX-2 Prompt."),
                io.String.Output(
                    display_name="report", tooltip="Where the text is from, and what was wrong."
                ),
            ],
        )

    @classmethod
    def check_lazy_status(cls, edited: str = "", **_: object) -> list[str]:
        """The language model is not loaded for a text that is there already."""
        return [] if edited.strip() else ["clip"]

    @classmethod
    def execute(
        cls,
        clip: Clip,
        prompt: str,
        from_image: bool,
        max_tokens: int,
        seed: int,
        image: Tensor | None = None,
        edited: str = "",
        check: bool = True,
    ) -> io.NodeOutput:
        if edited.strip():
            return _result(edited.strip(), "as edited")
        generation: Generation = 4 if "gemma4" in getattr(clip.tokenizer, "clip_name", "") else 3
        if generation == 4 and isinstance(clip.cond_stage_model, HostTextModel):
            raise ValueError(
                "the text encoder of LTX-2.5 cannot write text: connect an instruction-tuned Gemma, such as "
                "gemma4_e2b_it, from ComfyUI's Load CLIP"
            )

        def write(text: str, rules: WritingRules) -> str:
            drawn = rules.temperature is not None
            seen: dict[str, Tensor] = {}
            if image is not None:
                # The host puts its embedding of the image in place of one such token.
                text, seen = with_soft_tokens(text, generation, 1), {"image": image[:1]}
            tokens = clip.tokenize(text, skip_template=True, min_length=1, **seen)
            ids = clip.generate(
                tokens,
                do_sample=drawn,
                max_length=max_tokens or rules.max_tokens,
                temperature=rules.temperature or 1.0,
                top_k=0,
                top_p=1.0,
                min_p=0.0,
                repetition_penalty=REPETITION_PENALTY if rules.no_repeat else 1.0,
                seed=(seed + rules.attempt) % 2**64,
            )
            written: str = clip.decode(ids)
            return written

        first = from_image or image is not None
        if check:
            made = checked(prompt, generation, write, from_image=first, sees=image is not None)
        else:
            text = enhanced(prompt, generation, write, from_image=first, sees=image is not None)
            made = Enhancement(prompt=text)
        fault = f"the prompt stays as it is: what was written {made.fault}" if made.fault else ""
        return _result(made.prompt, fault or "written by the language model")


def _result(prompt: str, report: str) -> io.NodeOutput:
    """The outputs, and what the page shows: both texts, and the prompt alone, which can be edited there."""
    shown = ui.PreviewText(f"{prompt}\n\n({report})").as_dict() | {"prompt": (prompt,)}
    return io.NodeOutput(prompt, report, ui=shown)
