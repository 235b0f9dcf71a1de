"""The text part of a request: prompts, and their embeddings if these were computed before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Final, Literal, TypeAlias, get_args

from ..types import RelayedText, TextContext
from .schedule import PromptSchedule

TRIGGER: Final = "[trigger]"
"""Where the trigger word of a LoRA stands in a prompt."""

Method: TypeAlias = Literal["separate", "relay", "relay_wdc"]
"""How prompts by time are read: each by itself, or in one text, with two rules for the time of its parts."""
METHODS: Final[tuple[Method, ...]] = get_args(Method)


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
    method: Method = "separate"
    """How these are read."""

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
    stops". With the ``method`` "separate" each is encoded behind ``prompt``, and within ``fade_s`` seconds
    around its start mixed with the one before. With "relay" and "relay_wdc" all of them are one text, see
    :meth:`relayed`. If ``embeds``, the same prompts already encoded, is set, nothing is encoded.
    """

    prompt: str
    negative: str | None = None
    trigger: str | None = None
    embeds: PromptEmbeds | None = None
    at: str | None = None
    fade_s: float = 0.3
    method: Method = "separate"

    def __post_init__(self) -> None:
        """Insert the trigger word, and check the texts.

        Raises ValueError for a prompt that is not text, for an unknown method, and for texts that differ from
        those that ``embeds`` encode.
        """
        if self.method not in METHODS:
            raise ValueError(f"prompt_method={self.method!r} must be one of {', '.join(METHODS)}")
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

        Each text is ``prompt`` and the prompt of the part. Neighbours of equal text are one part. The result
        is empty without prompts by time. ``seconds`` None is unknown. Raises ValueError for prompts that
        cannot be read or that begin after the end of the clip.
        """
        return tuple((start, f"{self.prompt} {part}".strip()) for start, part in self._parts(seconds))

    def relayed(
        self, seconds: float | None, count: Callable[[Sequence[str]], Sequence[int]]
    ) -> tuple[str, RelayedText]:
        """All prompts as one text, and which of its tokens describe which part of a clip of ``seconds``.

        The text is ``prompt`` and the prompts of the parts with spaces between them. ``count`` returns the
        numbers of tokens of texts, with a token at the beginning of a text and without one at its end. Raises
        ValueError as :meth:`by_time` does, for a part of which no token is left where long texts are cut, and
        for "relay_wdc" without ``seconds``.
        """
        if self.method == "relay_wdc" and seconds is None:
            raise ValueError(
                "relay_wdc divides the length of the clip, which is not known: give it, or use relay"
            )
        parts = self._parts(seconds)
        texts = [self.prompt.strip(), *(part.strip() for _, part in parts)]
        # Counted from the beginning each time: the tokens of a word depend on what stands before it.
        counts = count(list(accumulate(texts, lambda done, part: f"{done} {part}".strip())))
        for (start, _), (first, end) in zip(parts, pairwise(counts), strict=True):
            if end <= first:
                raise ValueError(
                    f"the prompt from {start:g} s lies behind the {first} tokens that are read: shorten the "
                    "prompts, or use the method separate"
                )
        spans = tuple((start, *span) for (start, _), span in zip(parts, pairwise(counts), strict=True))
        return " ".join(filter(None, texts)), RelayedText(
            spans, seconds if self.method == "relay_wdc" else None
        )

    def _parts(self, seconds: float | None) -> tuple[tuple[float, str], ...]:
        """The prompts of the parts without that of the whole clip, (start in seconds, text)."""
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
            if not parts or parts[-1][1] != part:
                parts.append((start, part))
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
        if self.method != embeds.method:
            raise ValueError(
                f"prompt_embeds hold the prompts by time of prompt_method={embeds.method!r} and not "
                f"{self.method!r}: leave prompt_embeds out, or encode the prompts again"
            )
        if self.negative not in (None, embeds.negative_prompt):
            raise ValueError(
                f"prompt_embeds hold the negative prompt {embeds.negative_prompt!r} and not "
                f"{self.negative!r}: leave negative_prompt out, or give it to encode_prompt"
            )
