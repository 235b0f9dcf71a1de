"""The settings in the tags of a file, and the run that repeats it with some changes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..editing import FramesInFile, LongVideo, PromptSchedule
from ..media import read_metadata
from ..run.execution import Execution
from ..run.flat_options import FIELDS
from ..run.generation import METADATA_KEY
from ..run.input_files import found, with_found_files
from ..run.pipeline import LTX2Pipeline
from ..run.request import Request
from ..run.request_json import from_json
from ..types import Numerics
from .options import Chosen
from .values import execution_of, open_pipeline

Settings = Mapping[str, Any]

_EDITS = {"extend": "extend", "retake": "retake", "add_audio": "sound", "window": "long"}
"""Settings that only an edit writes, and the command that does."""

_REPLACES = {
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
"""A changed field -> the recorded fields that it takes the place of."""

_SIZE = frozenset({"width", "height", "num_frames", "seconds", "fps", "snap", "video"})
"""Fields that the source of an edit decides."""


def settings_of(path: Path) -> dict[str, Any]:
    """The settings that made a file. Raises ValueError for a file without them."""
    tags = read_metadata(path)
    if METADATA_KEY not in tags:
        raise ValueError(f"{path} holds no settings: it was not made by ltx2, or its tags were lost")
    try:
        settings: dict[str, Any] = json.loads(tags[METADATA_KEY])
        # Read here, so that a damaged file fails with its own message.
        settings["request"]["prompt"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"the settings in {path} cannot be read; the file is damaged") from None
    return settings


def command_of(settings: Settings) -> str:
    """The command that made a file of these settings."""
    return next((command for key, command in _EDITS.items() if key in settings), "generate")


def check_command(settings: Settings, command: str, path: Path) -> None:
    """Raise ValueError for settings that another command than ``command`` wrote."""
    made = command_of(settings)
    if made != command:
        raise ValueError(f"{path} was made by ltx2 {made}: repeat it with ltx2 {made} --from-file {path}")


def open_recorded(
    chosen: Chosen, settings: Settings | None, execution: Execution | None = None
) -> LTX2Pipeline:
    """The pipeline of a call, in the number format and with the numerics of ``settings`` where none are written.

    Raises ValueError for settings whose LoRAs are not named again.
    """
    import click

    if settings is None:
        return open_pipeline(chosen, execution)
    if execution is None:
        execution = execution_of(chosen, dtype=chosen["dtype"] or settings.get("dtype"))
    numerics = None if "numerics" in chosen.explicit else Numerics(settings["numerics"])
    pipeline = open_pipeline(chosen, execution, numerics=numerics)
    named = bool(chosen["loras"] or chosen["stage2_loras"])
    differs = check_files(settings, pipeline, named_loras=named)
    if differs is not None:
        click.echo(differs, err=True)
    return pipeline


def repeated_request(settings: Settings, changes: Mapping[str, Any]) -> Request:
    """The request in the ``settings`` of a file, with ``changes`` (flat fields) and the recorded rest.

    Raises ValueError for an input that is gone or has changed.
    """
    recorded = _without(_with_files(settings, changes), changes)
    if "clip" in settings and not {"seconds", "num_frames"} & changes.keys():
        # Files of 0.1 do not name a length that was the default of the library then.
        length = recorded.get("seconds") or recorded.get("num_frames") or settings["clip"][2]
        if recorded.get("seconds") is None and recorded.get("latents") is None:
            recorded["num_frames"] = length
    plain = Request.from_settings(recorded | {"prompt": changes.get("prompt", recorded.get("prompt"))})
    return plain.changed(**changes)


@dataclass(frozen=True, kw_only=True)
class RecordedEdit:
    """An edit or a long clip as its file says: its source, its own arguments, and fields of a request."""

    prompt: str
    source: Path | None
    own: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)


def repeated_edit(settings: Settings, changes: Mapping[str, Any], *, source: Path | None) -> RecordedEdit:
    """The edit in the ``settings`` of a file; ``changes`` are fields that are written, ``source`` a new source.

    Raises ValueError for a source that was in memory, is gone or has changed.
    """
    fields = _named_fields(settings, {*changes, *_SIZE})
    return RecordedEdit(
        prompt=settings["request"]["prompt"],
        source=_source(settings) if source is None else source,
        own=_own_arguments(settings),
        fields=fields,
    )


def repeated_long(settings: Settings, changes: Mapping[str, Any], *, source: Path | None) -> RecordedEdit:
    """The long clip in the ``settings`` of a file; arguments are those of :func:`repeated_edit`.

    Its own arguments are ``prompts`` and ``how``. Raises ValueError for keyframes that were in memory.
    """
    if settings["keyframes"]:
        raise ValueError("the clip was made with keyframes in memory, which its file does not hold")
    window = dict(
        zip(
            ("window_frames", "overlap_frames", "overlap_strength", "adain_factor"),
            settings["window"],
            strict=True,
        )
    )
    before = settings["source"]
    path = source
    if before is not None:
        path = _source(settings) if source is None else source
        # The second value is the scale in use, which the LoRAs decide again.
        _, strength, _, denoise = before
        window |= {"source_strength": strength, "denoise": denoise}
    parts = tuple((float(start), prompt) for start, prompt in settings["prompts"])
    prompts = PromptSchedule(parts, by_window=bool(settings.get("by_window")))
    return RecordedEdit(
        prompt=settings["request"]["prompt"],
        source=path,
        own={"prompts": prompts, "how": window},
        fields=_named_fields(settings, set(changes)),
    )


def long_video_of(arguments: Mapping[str, Any], source: Path | None) -> LongVideo:
    """How a long clip is divided, with its source opened."""
    opened = None if source is None else FramesInFile.open(source)
    return LongVideo(**arguments, source=opened)


def check_files(settings: Settings, pipeline: LTX2Pipeline, *, named_loras: bool) -> str | None:
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


def _with_files(settings: Settings, changes: Iterable[str]) -> dict[str, Any]:
    return with_found_files(settings["request"], settings.get("inputs", {}), replaced={*changes})


def _without(request: Mapping[str, Any], changes: Iterable[str]) -> dict[str, Any]:
    """The recorded values that no change takes the place of."""
    changed = {*changes}
    replaced = {name for change in changed for name in _REPLACES.get(change, ())}
    return {name: value for name, value in request.items() if name not in changed | replaced}


def _named_fields(settings: Settings, changes: set[str]) -> dict[str, Any]:
    """The fields that the user had named: neither left open nor decided by the recipe."""
    chosen = {*settings.get("recipe", {}).get("chose", ())}
    recorded = _without(_with_files(settings, changes), changes)
    # The prompt and the source are arguments of the edit.
    apart = chosen | {"prompt", "source_clip", "denoise"}
    plain = {name: value for name, value in recorded.items() if value is not None and name not in apart}
    fields = from_json({**plain, "prompt": settings["request"]["prompt"]})
    return {name: value for name, value in fields.items() if name in FIELDS and name != "prompt"}


def _source(settings: Settings) -> Path:
    record = settings.get("source_file")
    if record is None:
        raise ValueError(
            "the file does not say which video it was made from (it was in memory, or an earlier version "
            "wrote it): name it with --video"
        )
    return Path(found(record["path"], record, "source"))


def _own_arguments(settings: Settings) -> dict[str, Any]:
    """The arguments of an edit that are no fields of a request."""
    own = dict(settings[next(key for key in _EDITS if key in settings)])
    if "new_frames" in own:
        own["frames"] = own.pop("new_frames")
    for name in ("video", "audio"):
        if name in own:
            own[name] = tuple((start, end) for start, end in own[name])
    return own
