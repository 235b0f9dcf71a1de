"""Checks the arguments of edits and long clips by the table of options, before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ..conditioning.regions import Rounding
from ..run.options import by_name
from .footage import Footage

_OPTIONS: Final[Mapping[str, str]] = {
    "seconds": "extend_seconds",
    "frames": "extend_frames",
    "keep_frames": "keep_frames",
    "fade_frames": "feather",
    "feather": "feather",
    "exact_outside": "exact_outside",
    "paste": "paste",
    "allow_past_end": "allow_past_end",
    "ceiling_db": "ceiling_db",
    "window_frames": "window_frames",
    "overlap_frames": "overlap_frames",
    "overlap_strength": "overlap_strength",
    "adain_factor": "adain",
    "source_strength": "source_strength",
    "denoise": "denoise",
}
"""Argument of an edit -> the option that has its type and bounds."""


def checked(**values: Any) -> dict[str, Any]:
    """Return the arguments ``values``, by name, with numbers of numpy converted; None stays None.

    Raises TypeError or ValueError, which name the argument, for a value that its option does not allow.
    """
    return {
        name: None if value is None else by_name(_OPTIONS[name]).read(value, f"{name}=")
        for name, value in values.items()
    }


def check_source(source: Footage) -> Footage:
    """Return ``source`` unchanged; raises TypeError for anything else than :class:`Footage`."""
    if not isinstance(source, Footage):
        raise TypeError(f"source={source!r:.80} must be a Footage, such as Footage.read('clip.mp4')")
    return source


def checked_rounding(rounding: Rounding | str) -> Rounding:
    """Return the rounding that a text such as "cover" names; raises ValueError if there is none."""
    try:
        return Rounding(rounding)
    except ValueError:
        names = ", ".join(one.value for one in Rounding)
        raise ValueError(f"rounding={rounding!r:.40} must be one of {names}") from None
