"""Timelines of LTX Director and prompts of Wan2GP as shot lists, with what has no counterpart."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping

from ...storage.files import JsonObject
from .director import LISTS, director, number
from .format import FORMAT, parse_json, parse_shots

_BOUNDS = re.compile(r"\[\s*([\d.:]+\s*[%s]?)\s*:\s*([\d.:]*\s*[%s]?)\s*\]")
"""The range before a part of a Wan2GP prompt, such as ``[0%:25%]``, ``[2s:4s]`` or ``[30:]``."""
_COMMAND = re.compile(r"\[/[^\]]*\]")


def imported(text: str) -> tuple[JsonObject, tuple[str, ...]]:
    """Convert a timeline or prompt of another tool to a shot list, as JSON values.

    ``text`` is what LTX Director stores (its saved file, or the text of its widget ``timeline_data``), a
    prompt with the marks of Wan2GP, or a shot list, which is returned as it is. The second result names what
    was left out. Raises ValueError for text that is none of these.
    """
    if not text.lstrip().startswith("{"):
        return _wan2gp(text)
    values = parse_json(text)
    if values.get("format") == FORMAT:
        parse_shots(text)
        return values, ()
    timeline = values.get("timeline", values)
    if not isinstance(timeline, Mapping) or not any(isinstance(timeline.get(name), list) for name in LISTS):
        raise ValueError(f"this JSON is neither a shot list ({FORMAT}) nor a timeline of LTX Director")
    return director(timeline, values)


def _wan2gp(text: str) -> tuple[JsonObject, tuple[str, ...]]:
    """Convert a prompt of Wan2GP: ``global [0%:25%] text [2s:4s] text``."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    plain = "\n".join(lines)
    notes = [f"the command {one[0]}" for one in _COMMAND.finditer(plain)]
    notes += [f"the macro {line.strip()[:40]}" for line in lines if line.lstrip().startswith("!")]
    plain = "\n".join(line for line in _COMMAND.sub("", plain).splitlines() if not line.startswith("!"))
    heads = list(_BOUNDS.finditer(plain))
    if not heads:
        raise ValueError(
            "there is no part such as [0%:50%] or [2s:4s] in this text: it is a plain prompt, which needs no "
            "shot list"
        )
    shots: JsonObject = {"format": FORMAT, "prompt": plain[: heads[0].start()].strip()}
    shots["parts"] = list(_wan2gp_parts(plain, heads))
    parse_shots(json.dumps(shots))
    return shots, tuple(notes)


def _wan2gp_parts(text: str, heads: Iterable[re.Match[str]]) -> Iterator[JsonObject]:
    heads = list(heads)
    stops = [*(head.start() for head in heads[1:]), len(text)]
    for head, stop in zip(heads, stops, strict=True):
        part: JsonObject = {"from": _wan2gp_time(head[1]), "prompt": text[head.end() : stop].strip()}
        if head[2].strip():
            part["to"] = _wan2gp_time(head[2])
        yield part


def _wan2gp_time(text: str) -> str:
    """A time of Wan2GP as ours: percent, seconds (``2s``, ``0:30``), or a number of a frame from 1."""
    text = text.replace(" ", "")
    if text.endswith("%"):
        return text
    if text.endswith("s") or ":" in text:
        return text.rstrip("s")
    return f"f{max(0, int(number(text)) - 1)}"
