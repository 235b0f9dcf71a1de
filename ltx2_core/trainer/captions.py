"""Captions of a dataset: the trigger word, and openings of language models that say nothing."""

from __future__ import annotations

import re

_OPENING = re.compile(
    r"^(?:(?:The|This|In the|In this) (?:video|clip|scene|image|footage|animation|film)"
    r"(?: (?:shows|depicts|features|captures|presents|displays|illustrates|opens with|begins with)|,)"
    r"|Caption:|Description:)\s+"
)


def clean_caption(text: str) -> str:
    """Remove an opening such as "The video shows" or "Caption:" from a caption, and spaces around it."""
    return _OPENING.sub("", text.strip(), count=1)


def has_trigger(text: str, trigger: str) -> bool:
    """Whether the word or words ``trigger`` occur in a caption, as whole words."""
    return re.search(rf"(?<!\w){re.escape(trigger.strip())}(?!\w)", text) is not None


_ORDINARY = re.compile(
    r"a|animal|anime|baby|bird|boy|cartoon|cat|character|child|cinematic|city|clip|dog|face|film|girl|horse|"
    r"house|human|lady|landscape|man|men|model|movie|music|nature|object|painting|people|person|photo|picture|"
    r"portrait|realistic|robot|scene|sound|style|subject|the|toy|video|voice|woman|women"
)


def is_ordinary(trigger: str) -> bool:
    """Whether all words of a trigger are among those that captions of anything have."""
    return all(_ORDINARY.fullmatch(word) for word in trigger.lower().split())


def with_trigger(text: str, trigger: str | None) -> str:
    """Put ``trigger`` in front of a caption that does not have it; None changes nothing."""
    if trigger is None or not trigger.strip() or has_trigger(text, trigger):
        return text
    return f"{trigger.strip()} {text}"


def prepared(text: str, *, trigger: str | None, clean: bool) -> str:
    """The caption as it is encoded: without an opening if ``clean``, and with ``trigger``."""
    return with_trigger(clean_caption(text) if clean else text.strip(), trigger)
