"""The text part of a request: prompts, and their embeddings if these were computed before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..types import TextContext
from .schedule import PromptSchedule

TRIGGER: Final = "[trigger]"
"""Where the trigger word of a LoRA stands in a prompt."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptEmbeds:
    """A prompt and a negative prompt, already encoded to contexts for the transformer; usable in many runs.

    ``stages`` holds a pair of contexts (positive, negative) for the first stage; None stands for no negative
    prompt. ``stages`` has a second entry only if the LoRAs of the second stage change the text networks.
    ``models`` identifies, in JSON values, the networks that computed the contexts.
    """

    prompt: str
    negative_prompt: str | None
    stages: tuple[tuple[TextContext, TextContext | None], ...]
    models: Mapping[str, Any]
    at: str | None = None
    """The prompts by time that the contexts hold too; None without any."""

    def of_stage(self, index: int) -> tuple[TextContext, TextContext | None]:
        """The encoded texts (prompt, negative prompt) for sampling stage ``index``: 0, or 1 for the second.

        The negative one is None if there is no negative prompt.
        """
        return self.stages[min(index, len(self.stages) - 1)]


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """The description of a clip and its audio, and what to avoid.

    ``negative``, what to avoid, is read only where guidance or a sampler needs a negative prompt; None takes
    the default text of the checkpoint. ``trigger`` is the trigger word of a LoRA, which replaces the text
    ``[trigger]`` in ``prompt`` and ``at``, but not in ``negative``; None replaces nothing. ``at`` are prompts
    for parts of the clip, in the form that :meth:`PromptSchedule.parse` reads, such as "0: it rolls; 2: it
    stops"; each is encoded behind ``prompt``, and within ``fade_s`` seconds around its start mixed with the
    one before. If ``embeds``, the same prompts already encoded, is set, nothing is encoded.
    """

    prompt: str
    negative: str | None = None
    trigger: str | None = None
    embeds: PromptEmbeds | None = None
    at: str | None = None
    fade_s: float = 0.3

    def __post_init__(self) -> None:
        """Insert the trigger word, and check the texts.

        Raises ValueError for a prompt that is not text, and for texts that differ from those that ``embeds``
        encode.
        """
        if not isinstance(self.prompt, str):
            raise ValueError(
                f"prompt must be text; got {type(self.prompt).__name__}. Run several prompts one by one"
            )
        if self.trigger is not None:
            object.__setattr__(self, "prompt", self.prompt.replace(TRIGGER, self.trigger))
            if self.at is not None:
                object.__setattr__(self, "at", self.at.replace(TRIGGER, self.trigger))
        if self.embeds is not None:
            self._check(self.embeds)

    def by_time(self, seconds: float | None) -> tuple[tuple[float, str], ...]:
        """The texts of the parts of a clip of ``seconds``: (start in seconds, text), the first at 0.

        Each text is ``prompt`` and the prompt of the part. Neighbours of equal text are one part, so that the
        result is empty for a single text, and without prompts by time. ``seconds`` None is unknown. Raises
        ValueError for prompts that cannot be read or that begin after the end of the clip.
        """
        if self.at is None:
            return ()
        schedule = PromptSchedule.parse(self.at, seconds=seconds)
        if schedule.by_window:
            if seconds is None:
                raise ValueError("prompts between | share the clip, whose length is not known: give times")
            share = seconds / len(schedule.parts)
            schedule = PromptSchedule(tuple((number * share, part) for number, part in schedule.parts))
        parts: list[tuple[float, str]] = []
        for start, part in schedule.parts:
            if seconds is not None and start >= seconds:
                raise ValueError(
                    f"the prompt from {start:g} s begins after the clip, which ends at {seconds:g} s: give "
                    "an earlier time, or make the clip longer"
                )
            text = f"{self.prompt} {part}".strip()
            if not parts or parts[-1][1] != text:
                parts.append((start, text))
        return tuple(parts)

    def _check(self, embeds: PromptEmbeds) -> None:
        if self.prompt != embeds.prompt:
            raise ValueError(
                f"prompt_embeds are those of {embeds.prompt!r} and not of {self.prompt!r}: leave the prompt "
                "out, or encode it with encode_prompt"
            )
        if self.at != embeds.at:
            raise ValueError(
                f"prompt_embeds hold the prompts by time {embeds.at!r} and not {self.at!r}: leave "
                "prompts_at out, or leave prompt_embeds out"
            )
        if self.negative not in (None, embeds.negative_prompt):
            raise ValueError(
                f"prompt_embeds hold the negative prompt {embeds.negative_prompt!r} and not "
                f"{self.negative!r}: leave negative_prompt out, or give it to encode_prompt"
            )
