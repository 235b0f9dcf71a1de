"""A prompt for every part of a long clip, from plain text or JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any


@dataclass(frozen=True)
class PromptSchedule:
    """``parts`` are (second from which it holds, prompt), rising, the first from 0 on."""

    parts: tuple[tuple[float, str], ...]

    def __post_init__(self) -> None:
        times = [start for start, _ in self.parts]
        if not times or times[0] != 0 or any(a >= b for a, b in pairwise(times)):
            raise ValueError(f"prompts must begin at 0 s and follow each other; they begin at {times} s")

    @classmethod
    def parse(cls, text: str) -> PromptSchedule:
        """One prompt; or lines ``seconds: prompt``; or JSON, a list of ``{"from": seconds, "prompt": text}``.

        The first part begins at 0 whatever it says. Raises ValueError for JSON of another shape, and for
        times that do not rise.
        """
        if text.lstrip().startswith("["):
            return cls._of([(one.get("from", 0), one.get("prompt")) for one in _entries(text)])
        lines = [
            re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*s?\s*:\s*(.+)", line) for line in text.strip().splitlines()
        ]
        if lines and all(lines):
            return cls._of([(float(line[1]), line[2].strip()) for line in lines if line])
        return cls(((0.0, text),))

    @classmethod
    def _of(cls, parts: Sequence[tuple[Any, Any]]) -> PromptSchedule:
        checked = []
        for start, prompt in parts:
            if not isinstance(start, (int, float)) or not isinstance(prompt, str):
                raise ValueError(
                    f'a part of the prompts must be {{"from": seconds, "prompt": text}}; got {prompt!r}'
                )
            checked.append((float(start), prompt))
        if checked:
            checked[0] = (0.0, checked[0][1])
        return cls(tuple(checked))

    def at(self, second: float) -> str:
        """The prompt that holds at ``second``."""
        return [prompt for start, prompt in self.parts if start <= max(second, 0)][-1]


def _entries(text: str) -> list[dict[str, Any]]:
    try:
        entries = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"the prompts begin like JSON and are none: {error}") from error
    if not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries):
        raise ValueError('JSON prompts must be a list of {"from": seconds, "prompt": text}')
    return entries
