"""Repeats the run that made a file, from the settings in its tags, with some of them changed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..conditioning.inputs import ImageAt
from ..editing import FramesInFile, LongVideo, PromptSchedule
from ..media import read_metadata
from ..media.images import BLACK, Colour
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

# Without this table a repeated run would hold both its old sigmas and new steps, and a request refuses both.
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
    """Read the settings from the tags of a file. Raises ValueError if it has none or they are damaged."""
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
    """The name of the command, such as "retake", that made a file with these settings."""
    return next((command for key, command in _EDITS.items() if key in settings), "generate")


def check_command(settings: Settings, command: str, path: Path) -> None:
    """Raise ValueError if the settings of the file ``path`` come from another command than ``command``."""
    made = command_of(settings)
    if made != command:
        raise ValueError(f"{path} was made by ltx2 {made}: repeat it with ltx2 {made} --from-file {path}")


def open_recorded(
    chosen: Chosen, settings: Settings | None, execution: Execution | None = None
) -> LTX2Pipeline:
    """Open the pipeline of a call, with the number format and numerics that ``settings`` record, if any.

    Options that the user wrote come first. Raises ValueError if the settings have LoRAs and the user named
    none.
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
    """Return the recorded request with ``changes``, which are flat fields of a request.

    A recorded field that contradicts a change, such as steps and sigmas, is dropped. Raises ValueError for an
    input file that is gone or has changed.
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
    """An edit or a long clip, as recorded in a file.

    ``own`` are the arguments that only this kind of edit has; ``fields`` are fields of a request.
    """

    prompt: str
    source: Path | None
    own: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)


def repeated_edit(settings: Settings, changes: Mapping[str, Any], *, source: Path | None) -> RecordedEdit:
    """Return the recorded edit without the fields that ``changes`` replace.

    ``source`` replaces the recorded source if it is not None. Raises ValueError for a recorded source that
    was in memory, is gone or has changed.
    """
    fields = _named_fields(settings, {*changes, *_SIZE})
    return RecordedEdit(
        prompt=settings["request"]["prompt"],
        source=_source(settings) if source is None else source,
        own=_own_arguments(settings),
        fields=fields,
    )


def repeated_long(settings: Settings, changes: Mapping[str, Any], *, source: Path | None) -> RecordedEdit:
    """Return the recorded long clip; arguments are those of :func:`repeated_edit`.

    Its ``own`` arguments are "prompts" and "how"; ``fields`` has its images at frames too. Raises ValueError
    if the user did not name these again and one of them was in memory, is gone or has changed.
    """
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
        fields={**_named_fields(settings, set(changes)), **_keyframe_images(settings, changes)},
    )


def _keyframe_images(settings: Settings, changes: Mapping[str, Any]) -> dict[str, tuple[ImageAt, ...]]:
    """Return the recorded images at frames of a long clip as the field "images"; {} if there are none.

    It is empty too if ``changes`` has other ones.
    """
    frames, files = settings["keyframes"], settings.get("keyframe_files", ())
    if not frames or "images" in changes:
        return {}
    if len(files) != len(frames) or None in files:
        raise ValueError(
            "the clip was made with images at frames, whose files its tags do not name: give them again with "
            "--image FILE@FRAME"
        )
    return {
        "images": tuple(
            ImageAt(source=found(record["path"], record, "image"), frame=frame, strength=strength)
            for (frame, strength, _), record in zip(frames, files, strict=True)
        )
    }


def long_video_of(
    arguments: Mapping[str, Any], source: Path | None, *, background: Colour = BLACK
) -> LongVideo:
    """Make the division into windows from ``arguments`` of :class:`LongVideo`, and open the source.

    ``background`` is the colour that replaces transparent pixels of the source.
    """
    opened = None if source is None else FramesInFile.open(source, background=background)
    return LongVideo(**arguments, source=opened)


def check_files(settings: Settings, pipeline: LTX2Pipeline, *, named_loras: bool) -> str | None:
    """Compare the checkpoints of ``pipeline`` with the recorded ones.

    Returns a line if they differ, else None. Raises ValueError if the settings have LoRAs and ``named_loras``
    says that the user named none.
    """
    loras = {kind: settings.get(kind, []) for kind in ("loras", "stage2_loras")}
    if any(loras.values()) and not named_loras:
        names = ", ".join(":".join(map(str, lora)) for kind in loras.values() for lora in kind)
        raise ValueError(f"the file was made with LoRAs, whose folders are not known: give {names} again")
    now = [file.path.name for file in pipeline.networks.checkpoints]
    before = settings.get("checkpoints", now)
    # A note and no error, because files may have been renamed.
    if now == before:
        return None
    return f"sampled with {', '.join(before)}; this run uses {', '.join(now)}"


def _with_files(settings: Settings, changes: Iterable[str]) -> dict[str, Any]:
    return with_found_files(settings["request"], settings.get("inputs", {}), replaced={*changes})


def _without(request: Mapping[str, Any], changes: Iterable[str]) -> dict[str, Any]:
    """Return the recorded fields, except those that ``changes`` set or contradict."""
    changed = {*changes}
    replaced = {name for change in changed for name in _REPLACES.get(change, ())}
    return {name: value for name, value in request.items() if name not in changed | replaced}


def _named_fields(settings: Settings, changes: set[str]) -> dict[str, Any]:
    """Return the recorded fields that the user of that run had set; the recipe decided the others."""
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
    """Return the recorded arguments that only this kind of edit has, such as regions."""
    own = dict(settings[next(key for key in _EDITS if key in settings)])
    # The record has frames, in whatever unit the user wrote the length.
    if "new_frames" in own:
        own["frames"] = own.pop("new_frames")
    for name in ("video", "audio"):
        if name in own:
            own[name] = tuple((start, end) for start, end in own[name])
    return own
