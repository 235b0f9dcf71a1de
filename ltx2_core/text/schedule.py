"""Parses prompts that change during a long clip, from plain text or JSON."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ..storage.files import ParsedJson

log = logging.getLogger(__name__)

_TIME = r"\d+(?::\d{1,2}){1,2}(?:\.\d+)?|\d+(?:\.\d+)?\s?[s%]?"
HEAD = re.compile(rf"({_TIME})\s*(?:(?:-|–|to)\s*({_TIME})\s*)?:(?!\d)")
"""A time, or a range of times, before a prompt. A digit after the colon makes it text, such as 16:9."""

_LIKE_TIME = r"[-+]?(?:[\d.][\d.:e+]*|nan|inf(?:inity)?)\s?[s%]?"
_LIKE_HEAD = re.compile(rf"{_LIKE_TIME}\s*(?:(?:-|–|to)\s*{_LIKE_TIME}\s*)?:(?!\d)", re.IGNORECASE)
_OTHER_TIME = (
    r"(?:(?:at|from|frames?|t|time)\s*=?\s*)?(?:[-+]?\d[\d.:,]*\s*"
    r"(?:[smhf%]|ms|secs?|seconds?|mins?|minutes?|frames?)?(?:\s*\d[\d.]*\s*s)?|end)"
)
_OTHER_RANGE = rf"[\[(]?\s*{_OTHER_TIME}\s*(?:(?:-+>?|–|—|→|~|\.\.+|to|until)\s*(?:{_OTHER_TIME})?\s*)?[\])]?"
_OTHER_HEAD = re.compile(rf"{_OTHER_RANGE}\s*[:：](?!\d)", re.IGNORECASE)
"""A time in a notation that is not read, such as ``frame 24:``, ``0:03,5:`` or ``(0-2):``."""
_LOOSE_HEAD = re.compile(
    rf"{_OTHER_RANGE}\s*[:：=](?!\d)|{_OTHER_RANGE}\s+[-–—]\s|\[\s*{_OTHER_TIME}\s*\]|\(\s*{_OTHER_TIME}\s*\)"
    r"|\d{1,2}:\d\d\s",
    re.IGNORECASE,
)
"""The same with another sign behind it, which may as well be text: a mistake if all parts begin like this."""
_AFTER_COMMA = re.compile(rf",\s+({_TIME})\s*:\s")
_SUBTITLE = re.compile(r"\d\d[.,]\d{3}\s*-->\s*\d\d:")
_EMPTY_HEAD = re.compile(r":\s")
"""A colon without a time before it: a forgotten time, which is an error where other parts have times."""
# Bounds the search of the patterns, which would be slow on a long run of digits.
_LONGEST_HEAD = 64
SHORTEST_GAP_S = 0.5
"""Seconds below which a time without a prompt counts as rounding and is not reported."""
LATEST = 1e9
"""The latest time of a prompt in seconds."""


@dataclass(frozen=True)
class PromptSchedule:
    """Prompts with the time at which each begins.

    ``parts`` are (start in seconds, prompt) in rising order; the first starts at 0. If ``by_window`` is True
    the starts are not seconds but numbers of windows, from 0. Raises ValueError for no parts, for a first
    start other than 0, and for starts that do not rise.
    """

    parts: tuple[tuple[float, str], ...]
    by_window: bool = False

    def __post_init__(self) -> None:
        times = [start for start, _ in self.parts]
        if not times or times[0] != 0 or any(a >= b for a, b in pairwise(times)):
            raise ValueError(f"prompts must begin at 0 s and follow each other; they begin at {times} s")

    @classmethod
    def parse(cls, text: str, *, seconds: float | None = None) -> PromptSchedule:
        """Parse one prompt, or several by time or by window.

        By time: ``0: prompt; 2.5: prompt``. Parts are separated by ``;`` or line ends, and each begins with
        its start or its range, and a colon. A time is in seconds (``2.5``), ``0:30``, ``00:00:30``, or
        ``50%`` of the clip, which is ``seconds`` long; a range is ``2.5-4``. Blank lines and lines that begin
        with ``#`` are skipped. The same as JSON is a list of ``{"from": time, "to": time, "prompt": text}``;
        ``from`` is 0 if it is missing, and ``to`` may be missing. The first part starts at 0 even if another
        start is written, and each part lasts until the next one starts, even if an earlier end is written; a
        warning says so.

        By window: prompts between ``|``, or a JSON list of texts; the last one is used for all further
        windows. Any other text is one prompt.

        Raises ValueError, with line and column or the number of the JSON entry, for a part without a time or
        a prompt, for a time that cannot be read, for starts that do not rise, and for an end that is not
        after its start or is after the next start; and for invalid JSON.
        """
        if not isinstance(text, str):
            raise TypeError(f"prompts must be text, or a PromptSchedule; got {type(text).__name__}")
        if _SUBTITLE.search(text):
            raise ValueError(
                "prompts: subtitles (SRT, VTT) are not read: write a line for each, such as 0-4: a ball"
            )
        if _is_timed_otherwise(text):
            place, piece = next(_pieces(text, wide=True))
            raise ValueError(_no_head(place, piece))
        if text.lstrip().startswith("[") or _is_json_object(text):
            entries = _entries(text)
            if entries and all(isinstance(one, str) for one in entries):
                return cls._windows(entries)
            parsed = [_json_part(one, index, seconds) for index, one in enumerate(entries, start=1)]
            return cls._of(parsed, seconds)
        pieces = list(_pieces(text))
        if not pieces:
            raise ValueError("prompts: there is no text: write one, or several by time (0: ...; 30: ...)")
        # One time makes all of it a schedule, so that a mistake in another time is an error and no prompt.
        if any(_LIKE_HEAD.match(piece[:_LONGEST_HEAD]) for _, piece in pieces):
            return cls._of([_timed_part(piece, place, seconds) for place, piece in pieces], seconds)
        return cls._windows(text.split("|")) if "|" in text else cls(((0.0, text),))

    @classmethod
    def _windows(cls, prompts: Sequence[str]) -> PromptSchedule:
        for number, prompt in enumerate(prompts, start=1):
            if not prompt.strip():
                raise ValueError(f"prompts: window {number} has no prompt: write one, or leave its | out")
        return cls(tuple((float(i), prompt.strip()) for i, prompt in enumerate(prompts)), by_window=True)

    @classmethod
    def _of(cls, parts: Sequence[_Part], seconds: float | None) -> PromptSchedule:
        """Make a schedule from parsed parts; the first one starts at 0, whatever its own start.

        Logs a warning for each span of time that no part covers, in a clip that is ``seconds`` long (None:
        unknown). Raises ValueError if the starts do not rise, or if the end of a part is not after its start
        or is after the next start.
        """
        for part, following in pairwise(parts):
            if following.start <= part.start:
                raise ValueError(
                    f"{following.place}: the prompts must follow each other, and {following.start:g} s is "
                    f"not after {part.start:g} s"
                )
        ends = [*(part.start for part in parts[1:]), math.inf]
        for part, latest in zip(parts, ends, strict=True):
            if part.end is not None and not part.start < part.end <= latest:
                raise ValueError(
                    f"{part.place}: the prompt from {part.start:g} s ends at {part.end:g} s: it must end "
                    "after it begins and not after the next one begins"
                )
        for first, stop, start in _gaps(parts, seconds):
            log.warning(
                "prompts: none covers %g to %g s; the one from %g s is used there", first, stop, start
            )
        starts = (0.0, *(part.start for part in parts[1:]))
        return cls(tuple((start, part.prompt) for start, part in zip(starts, parts, strict=True)))

    def at(self, second: float, window: int = 0) -> str:
        """Return the prompt at ``second`` of the clip, the last one that begins at or before it.

        If the schedule is ``by_window``, return that of window number ``window``, counted from 0, instead.
        """
        return self.parts[self.part_at(second, window)][1]

    def part_at(self, second: float, window: int = 0) -> int:
        """Return the index in ``parts`` of the prompt that :meth:`at` returns."""
        now = window if self.by_window else max(second, 0)
        # The last part that has begun; its end is the start of the next one.
        return sum(start <= now for start, _ in self.parts) - 1

    def when(self, index: int) -> str:
        """Say when part ``index`` applies: "from 2 s", or "from window 2" if it is ``by_window``."""
        start = self.parts[index][0]
        return f"from window {start + 1:g}" if self.by_window else f"from {start:g} s"


@dataclass(frozen=True)
class _Part:
    start: float
    end: float | None
    prompt: str
    place: str


def _gaps(parts: Sequence[_Part], seconds: float | None) -> Iterator[tuple[float, float, float]]:
    """Yield (begin, stop, start) in seconds for each span of the clip, begin to stop, that no part covers.

    ``start`` is the start of the part whose prompt is used in that span. ``seconds`` is the length of the
    clip; with None the time after the last part is left out. Spans after a part that last at most
    ``SHORTEST_GAP_S`` are left out.
    """
    if parts[0].start > 0:
        yield 0, parts[0].start, parts[0].start
    stops = [*(part.start for part in parts[1:]), seconds]
    for part, stop in zip(parts, stops, strict=True):
        # The length of a clip is rounded to whole frames, which is no gap.
        if part.end is not None and stop is not None and stop - part.end > SHORTEST_GAP_S:
            yield part.end, stop, part.start


def _is_timed_otherwise(text: str) -> bool:
    """Whether all parts of ``text`` begin with a time in a notation that is not read.

    One part alone is taken for text, unless its time is in brackets.
    """
    pieces = [piece[:_LONGEST_HEAD] for _, piece in _pieces(text, wide=True)]
    heads = [_LOOSE_HEAD.match(piece) for piece in pieces]
    if any(HEAD.match(piece) for piece in pieces) or not all(heads):
        return False
    return len(pieces) > 1 or bool(pieces and pieces[0].startswith("["))


def _no_head(place: str, piece: str) -> str:
    return f"{place}: {piece[:40]!r} does not begin with a time such as 2.5:, 0-4:, 0:30: or 50%:"


def _pieces(text: str, *, wide: bool = False) -> Iterator[tuple[str, str]]:
    """Split the text of a schedule at line ends and at each ``;`` that is followed by a time.

    With ``wide`` it is split at every ``;``, also the wide one of East Asian text. Yields (line and column of
    the piece, for error messages; the piece). Blank lines, empty pieces and comments are left out.
    """
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        first = 0
        for at in (match.start() for match in re.finditer("[;；]" if wide else ";", line)):
            following = line[at + 1 :].lstrip()[:_LONGEST_HEAD]
            if wide or any(head.match(following) for head in (_LIKE_HEAD, _EMPTY_HEAD, _OTHER_HEAD)):
                yield from _piece(number, first, line[first:at])
                first = at + 1
        yield from _piece(number, first, line[first:])


def _piece(line: int, at: int, text: str) -> Iterator[tuple[str, str]]:
    column = at + len(text) - len(text.lstrip()) + 1
    if piece := text.strip().rstrip("; \t"):
        yield f"prompts, line {line}, column {column}", piece


def _timed_part(piece: str, place: str, seconds: float | None) -> _Part:
    head = HEAD.match(piece[:_LONGEST_HEAD])
    if head is None:
        raise ValueError(_no_head(place, piece))
    if (comma := _AFTER_COMMA.search(piece)) is not None:
        log.warning(
            "%s: %r after the comma is part of the prompt: another prompt begins after ; or on a new line",
            *(place, f"{comma[1]}:"),
        )
    prompt = piece[head.end() :].strip()
    if not prompt:
        raise ValueError(f"{place}: there is no prompt after {head[0]!r}")
    end = None if head[2] is None else _seconds(head[2], place, seconds)
    return _Part(_seconds(head[1], place, seconds), end, prompt, place)


def _json_part(entry: ParsedJson, index: int, seconds: float | None) -> _Part:
    place, prompt = f"prompts, entry {index}", entry.get("prompt")
    unknown = entry.keys() - {"from", "to", "prompt"}
    if unknown or not isinstance(prompt, str):
        raise ValueError(
            f'{place}: a part of the prompts must be {{"from": seconds, "prompt": text}}; got {entry!r:.80}'
        )
    if not prompt.strip():
        raise ValueError(f"{place}: there is no prompt")
    end = entry.get("to")
    return _Part(
        _seconds(entry.get("from", 0), place, seconds),
        None if end is None else _seconds(end, place, seconds),
        prompt,
        place,
    )


def _seconds(time: Any, place: str, seconds: float | None) -> float:
    """Parse a time to seconds: a number, or text such as 2.5s, 0:30, 00:00:30 or 50%.

    A percentage is one of ``seconds``, the length of the clip. ``place`` says where the text is, for error
    messages. Raises ValueError for anything else, for a negative time or one above ``LATEST``, and for a
    percentage above 100 or without ``seconds``.
    """
    if isinstance(time, str) and re.fullmatch(_TIME, time.strip()):
        text = time.strip()
        if text.endswith("%"):
            share = float(text[:-1]) / 100
            if seconds is None or share > 1:
                reason = "is past the end" if share > 1 else "needs the length of the clip"
                raise ValueError(f"{place}: {text} {reason}: give the time in seconds")
            return share * seconds
        *larger, last = text.rstrip("s").split(":")
        if larger and any(float(one) >= 60 for one in (*larger[1:], last)):
            raise ValueError(f"{place}: {text} has 60 or more minutes or seconds after a colon")
        return sum(float(one) * 60.0**power for power, one in enumerate((last, *reversed(larger))))
    # A bool is an int in Python, and no time.
    number = isinstance(time, (int, float)) and not isinstance(time, bool)
    if not number or not 0 <= time <= LATEST:
        raise ValueError(f"{place}: {time!r} is no time: write seconds from 0 on, such as 2.5, or 0:30")
    return float(time)


def _is_json_object(text: str) -> bool:
    try:
        return text.lstrip().startswith("{") and isinstance(json.loads(text), dict)
    except (json.JSONDecodeError, RecursionError):
        return False


def _entries(text: str) -> list[Any]:
    try:
        entries = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"prompts: text that starts with [ must be JSON: {error}") from error
    except RecursionError:
        raise ValueError(
            "prompts: text that starts with [ must be JSON: the lists are nested too deeply"
        ) from None
    kinds = {type(one) for one in entries} if isinstance(entries, list) else set()
    if kinds not in ({dict}, {str}):
        raise ValueError('prompts: JSON must be a list of {"from": seconds, "prompt": text}, or of texts')
    return list(entries)
