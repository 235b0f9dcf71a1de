"""Times of a shot list, as seconds and frames of one clip."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...shapes import ClipPlan
from .format import Time

_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:\.\d+)?)|(\d+(?:\.\d+)?)s?")
_FRAME = re.compile(r"f(\d{1,9})")
_SHARE = re.compile(r"(\d{1,3}(?:\.\d+)?)%")
OFF_GRID_S = 1e-3
"""Seconds by which a time may differ from its frame without being reported."""


@dataclass(frozen=True)
class Times:
    """Converts times to seconds and frames of ``clip``; ``notes`` collects a sentence for each rounding."""

    clip: ClipPlan
    notes: list[str]

    def seconds(self, time: Time, place: str) -> float:
        """``time`` in seconds from the start of the clip.

        Raises ValueError, which names ``place``, for text that is no time and for a time outside of the clip.
        """
        seconds = self._read(time, place)
        if not 0 <= seconds <= self.clip.seconds + OFF_GRID_S:
            raise ValueError(
                f"{place}: {time} is outside of the clip, which lasts {self.clip.seconds:g} s "
                f"({self.clip.frames} frames at {self.clip.fps:g} fps)"
            )
        return seconds

    def frame(self, time: Time, place: str) -> int:
        """The pixel frame at ``time``, from 0; "end" is -1, the last one. Raises as :meth:`seconds` does."""
        if time == "end":
            return -1
        seconds = self.seconds(time, place)
        frame = min(round(seconds * self.clip.fps), self.clip.frames - 1)
        if abs(frame / self.clip.fps - seconds) > OFF_GRID_S:
            self.notes.append(f"{place}: {time} is frame {frame}, at {frame / self.clip.fps:.3f} s")
        return frame

    def region(self, start: Time, end: Time, place: str) -> tuple[float, float]:
        """Start and end in seconds of a region; "end" is the end of the clip.

        Raises ValueError, which names ``place``, as :meth:`seconds` does and for an end that is no later than
        the start.
        """
        first = self.seconds(start, f"{place}, from")
        last = self.clip.seconds if end == "end" else self.seconds(end, f"{place}, to")
        if last <= first:
            raise ValueError(f"{place}: it ends at {end}, which is no later than its start, {start}")
        return first, last

    def _read(self, time: Time, place: str) -> float:
        if isinstance(time, int | float):
            return float(time)
        text = time.strip()
        if match := _FRAME.fullmatch(text):
            return int(match[1]) / self.clip.fps
        if match := _SHARE.fullmatch(text):
            return float(match[1]) / 100 * self.clip.seconds
        if match := _CLOCK.fullmatch(text):
            if match[4] is not None:
                return float(match[4])
            return int(match[1] or 0) * 3600 + int(match[2]) * 60 + float(match[3])
        raise ValueError(f'{place}: {time!r} is no time: write seconds, "0:30", "f48" for a frame, or "50%"')
