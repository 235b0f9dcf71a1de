"""Which fields of a request a change of others replaces or excludes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ..storage.files import JsonObject, ParsedJson

_REPLACES: Final = {
    "cfg": ("guidance",),
    "audio_cfg": ("guidance",),
    "distilled": (
        *("guidance", "steps", "cfg", "audio_cfg", "sigmas", "schedule"),
        *("sampler", "eta", "stage2_sampler"),
    ),
    "seconds": ("num_frames",),
    "num_frames": ("seconds",),
    "steps": ("sigmas",),
    "sigmas": ("steps", "schedule"),
    "schedule": ("sigmas",),
    "sampler": ("eta",),
}
"""Field of a request that the user changes -> the other fields that it replaces."""


def without(request: ParsedJson, changes: Iterable[str]) -> JsonObject:
    """Return the fields of a request without those that ``changes`` replace or exclude.

    ``changes`` are names of fields; a change of sigmas excludes steps, for example.
    """
    changed = {*changes}
    replaced = {name for change in changed for name in _REPLACES.get(change, ())}
    return {name: value for name, value in request.items() if name not in changed | replaced}
