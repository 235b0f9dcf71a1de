"""A prompt for every part of a long clip, from plain text or JSON."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

LINE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*s?\s*(?:(?:-|to)\s*(\d+(?:\.\d+)?)\s*s?\s*)?:\s*(.+)")


@dataclass(frozen=True)
class PromptSchedule:
    """Prompts by time: ``parts`` are (start in seconds, prompt) in rising order, the first from 0.

    With ``by_window`` the starts are numbers of windows in place of seconds.
    """

    parts: tuple[tuple[float, str], ...]
    by_window: bool = False

    def __post_init__(self) -> None:
        times = [start for start, _ in self.parts]
        if not times or times[0] != 0 or any(a >= b for a, b in pairwise(times)):
            raise ValueError(f"prompts must begin at 0 s and follow each other; they begin at {times} s")

    @classmethod
    def parse(cls, text: str) -> PromptSchedule:
        """Parse one prompt, or several by time or by window.

        By time: lines ``2.5: prompt`` or ``2.5-4: prompt``, or JSON, a list of ``{"from": seconds, "prompt":
        text}``. By window: prompts between ``|``, or a JSON list of texts; the last one serves all further
        windows. The first part starts at 0 even if another start is written, and each part ends where the
        next one starts, even if an earlier end is written. Raises ValueError for JSON of another shape, and
        for times that do not rise.
        """
        if text.lstrip().startswith("["):
            entries = _entries(text)
            if entries and all(isinstance(one, str) for one in entries):
                return cls._windows(entries)
            return cls._of([(one.get("from", 0), one.get("prompt"), one.get("to")) for one in entries])
        lines = [LINE.fullmatch(line) for line in text.strip().splitlines()]
        # A prompt with colons in it is only split if every line begins with a time.
        if lines and all(lines):
            return cls._of(
                [
                    (float(line[1]), line[3].strip(), None if line[2] is None else float(line[2]))
                    for line in lines
                    if line
                ]
            )
        return cls._windows(text.split("|")) if "|" in text else cls(((0.0, text),))

    @classmethod
    def _windows(cls, prompts: Sequence[str]) -> PromptSchedule:
        return cls(tuple((float(i), prompt.strip()) for i, prompt in enumerate(prompts)), by_window=True)

    @classmethod
    def _of(cls, parts: Sequence[tuple[Any, Any, Any]]) -> PromptSchedule:
        checked: list[tuple[float, str]] = []
        for index, (start, prompt, end) in enumerate(parts):
            if not isinstance(start, (int, float)) or not isinstance(prompt, str):
                raise ValueError(
                    f'a part of the prompts must be {{"from": seconds, "prompt": text}}; got {prompt!r}'
                )
            following = parts[index + 1][0] if index + 1 < len(parts) else math.inf
            if end is not None and not (isinstance(end, (int, float)) and start < end <= following):
                raise ValueError(
                    f"the prompt from {start:g} s ends at {end} s: it must end after it begins and not after "
                    "the next one begins"
                )
            checked.append((float(start), prompt))
        if checked:
            # Every moment of the clip needs a prompt.
            checked[0] = (0.0, checked[0][1])
        return cls(tuple(checked))

    def at(self, second: float, window: int = 0) -> str:
        """The prompt at ``second`` of the clip, or with ``by_window`` that of ``window``."""
        now = window if self.by_window else max(second, 0)
        return [prompt for start, prompt in self.parts if start <= now][-1]


def _entries(text: str) -> list[Any]:
    try:
        entries = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"prompts that start with [ must be JSON: {error}") from error
    kinds = {type(one) for one in entries} if isinstance(entries, list) else set()
    if kinds not in ({dict}, {str}):
        raise ValueError('JSON prompts must be a list of {"from": seconds, "prompt": text}, or of texts')
    return list(entries)
