"""The settings in the tags of a file, and the request that repeats it with some changes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..media.writer import read_metadata
from ..run.generation import METADATA_KEY
from ..run.pipeline import LTX2Pipeline
from ..run.request import Request

_EDITS = {"extend": "extend", "retake": "retake", "add_audio": "sound", "window": "long"}
"""Settings that only an edit writes, and the command that does."""

_REPLACES = {
    "cfg": ("guidance",),
    "audio_cfg": ("guidance",),
    "distilled": ("guidance", "steps", "cfg", "audio_cfg", "sigmas", "sampler", "eta", "stage2_sampler"),
    "seconds": ("num_frames",),
    "num_frames": ("seconds",),
    "steps": ("sigmas",),
    "sampler": ("eta",),
}
"""A changed field -> the recorded fields that it takes the place of."""


def settings_of(path: Path) -> dict[str, Any]:
    """The settings that made a file. Raises ValueError for a file without them, and for one of an edit."""
    tags = read_metadata(path)
    if METADATA_KEY not in tags:
        raise ValueError(f"{path} holds no settings: it was not made by ltx2 generate, or its tags were lost")
    try:
        settings: dict[str, Any] = json.loads(tags[METADATA_KEY])
        # Read here, so that a damaged file fails with its own message.
        settings["request"]["prompt"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"the settings in {path} cannot be read; the file is damaged") from None
    # An edit depends on its source, which the settings of a generation do not hold.
    for key, command in _EDITS.items():
        if key in settings:
            raise ValueError(f"{path} was made by ltx2 {command}: run that command again to repeat it")
    return settings


def repeated_request(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> Request:
    """The request in the ``settings`` of a file, with ``changes`` (flat fields) and the recorded rest."""
    replaced = {name for change in changes for name in _REPLACES.get(change, ())}
    recorded = {
        name: value
        for name, value in settings["request"].items()
        if name not in changes and name not in replaced
    }
    if "clip" in settings and not {"seconds", "num_frames"} & changes.keys():
        # Files of 0.1 do not name a length that was the default of the library then.
        length = recorded.get("seconds") or recorded.get("num_frames") or settings["clip"][2]
        if recorded.get("seconds") is None and recorded.get("latents") is None:
            recorded["num_frames"] = length
    plain = Request.from_settings(recorded | {"prompt": changes.get("prompt", recorded.get("prompt"))})
    return plain.changed(**changes)


def check_files(settings: Mapping[str, Any], pipeline: LTX2Pipeline, *, named_loras: bool) -> str | None:
    """A line that names the checkpoints of a run and of the settings if they differ, else None.

    Raises ValueError if the settings have LoRAs and none are named now.
    """
    loras = {kind: settings.get(kind, []) for kind in ("loras", "stage2_loras")}
    if any(loras.values()) and not named_loras:
        names = ", ".join(":".join(map(str, lora)) for kind in loras.values() for lora in kind)
        raise ValueError(f"the file was made with LoRAs, whose folders are not known: give {names} again")
    now = [file.path.name for file in pipeline.networks.checkpoints]
    before = settings.get("checkpoints", now)
    if now == before:
        return None
    return f"sampled with {', '.join(before)}; this run uses {', '.join(now)}"
