"""The text part of a request: prompts, and their embeddings where these were made before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..types import TextContext

TRIGGER: Final = "[trigger]"
"""Where the trigger word of a LoRA stands in a prompt."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptEmbeds:
    """A prompt and a negative prompt as the transformer takes them, for any number of runs.

    ``stages`` holds the contexts (positive, negative) of the first stage, and of the second one where its
    LoRAs change the text networks. ``models`` says which networks made them, as JSON values.
    """

    prompt: str
    negative_prompt: str | None
    stages: tuple[tuple[TextContext, TextContext | None], ...]
    models: Mapping[str, Any]

    def of_stage(self, index: int) -> tuple[TextContext, TextContext | None]:
        """The contexts of a stage, counted from 0."""
        return self.stages[min(index, len(self.stages) - 1)]


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """The description of a clip and its audio, and what to avoid.

    ``negative`` is read where guidance away from it or a sampler needs it; None leaves it to the recipe of
    the checkpoint. ``trigger`` is the trigger word of a LoRA, which takes the place of ``[trigger]`` in the
    prompt and not in the negative one. ``embeds`` take the place of encoding both.
    """

    prompt: str
    negative: str | None = None
    trigger: str | None = None
    embeds: PromptEmbeds | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for a prompt that is not text, and for texts that are not those of ``embeds``."""
        if not isinstance(self.prompt, str):
            raise ValueError(
                f"prompt must be text; got {type(self.prompt).__name__}. Run several prompts one by one"
            )
        if self.trigger is not None:
            object.__setattr__(self, "prompt", self.prompt.replace(TRIGGER, self.trigger))
        if self.embeds is not None:
            self._check(self.embeds)

    def _check(self, embeds: PromptEmbeds) -> None:
        if self.prompt != embeds.prompt:
            raise ValueError(
                f"prompt_embeds are those of {embeds.prompt!r} and not of {self.prompt!r}: leave the prompt "
                "out, or encode it with encode_prompt"
            )
        if self.negative not in (None, embeds.negative_prompt):
            raise ValueError(
                f"prompt_embeds hold the negative prompt {embeds.negative_prompt!r} and not "
                f"{self.negative!r}: leave negative_prompt out, or give it to encode_prompt"
            )
