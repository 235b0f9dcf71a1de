"""Repeats the run that made a file, from the settings in its tags, with some of them changed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ..conditioning.inputs import ImageAt
from ..editing import FramesInFile, LongVideo, PromptSchedule
from ..editing.interpolate import DOUBLED_KEY
from ..editing.long_options import WindowArguments
from ..editing.task import EditArguments
from ..media import read_metadata
from ..media.images import BLACK, Colour
from ..run.execution import Execution
from ..run.flat_options import RequestOptions
from ..run.generation import METADATA_KEY
from ..run.input_files import found, with_found_files
from ..run.pipeline import LTX2Pipeline
from ..run.replacing import without
from ..run.request import Request
from ..run.request_json import from_json
from ..storage.files import JsonObject, ParsedJson
from ..types import Numerics
from .options import Chosen
from .values import execution_of, open_pipeline

_EDITS = {
    "extend": "extend",
    "retake": "retake",
    "add_audio": "sound",
    "dub": "dub",
    "to_hdr": "hdr",
    "window": "long",
}
"""Key that only an edit or a long clip writes into a file's settings -> the command that makes it."""

# Without this table a repeated run would hold both its old sigmas and new steps, and a request refuses both.
_SIZE = frozenset({"width", "height", "num_frames", "seconds", "fps", "snap", "video"})
"""Fields of a request that the source of an edit decides."""


def settings_of(path: Path) -> ParsedJson:
    """Read the settings of the run that made a file from the file's tags.

    Raises ValueError if the file has no such tags or they are damaged.
    """
    tags = read_metadata(path)
    if METADATA_KEY not in tags:
        raise ValueError(f"{path} holds no settings: it was not made by ltx2, or its tags were lost")
    try:
        settings: ParsedJson = json.loads(tags[METADATA_KEY])
        doubled = DOUBLED_KEY in settings
        # Read here, so that a damaged file fails with its own message.
        doubled or settings["request"]["prompt"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"the settings in {path} cannot be read; the file is damaged") from None
    if doubled:
        raise ValueError(
            f"{path} was made by ltx2 interpolate, which samples nothing: run that again on its source"
        )
    return settings


def command_of(settings: ParsedJson) -> str:
    """The name of the command, such as "retake", that made a file with these settings."""
    return next((command for key, command in _EDITS.items() if key in settings), "generate")


def check_command(settings: ParsedJson, command: str, path: Path) -> None:
    """Raise ValueError if the file ``path`` with these settings was not made by the command ``command``."""
    made = command_of(settings)
    if made != command:
        raise ValueError(f"{path} was made by ltx2 {made}: repeat it with ltx2 {made} --from-file {path}")


def open_recorded(
    chosen: Chosen, settings: ParsedJson | None, execution: Execution | None = None
) -> LTX2Pipeline:
    """Open the pipeline of a call, with the number format and numerics that ``settings`` record.

    ``settings`` are those of the file of ``--from-file``, None without that option; options that the user
    wrote replace them. ``execution`` says how to run (device, number format, memory, kernels); None makes it
    from the options. A line is printed on stderr if the checkpoints have other names than the recorded ones.
    Raises ValueError if LoRAs are recorded and the user named none.
    """
    import click

    if settings is None:
        return open_pipeline(chosen, execution)
    if execution is None:
        execution = execution_of(chosen, recorded=settings)
    numerics = None if "numerics" in chosen.explicit else Numerics(settings["numerics"])
    pipeline = open_pipeline(chosen, execution, numerics=numerics)
    named = bool(chosen["loras"] or chosen["stage2_loras"])
    differs = check_files(settings, pipeline, named_loras=named)
    if differs is not None:
        click.echo(differs, err=True)
    return pipeline


def repeated_request(settings: ParsedJson, changes: Mapping[str, Any]) -> Request:
    """Return the request recorded in ``settings``, with the fields in ``changes`` replaced.

    A recorded field that contradicts a change is left out: for example steps, if sigmas are changed. Raises
    ValueError for an input file that is gone or has changed.
    """
    recorded = without(_with_files(settings, changes), changes)
    if "clip" in settings and not {"seconds", "num_frames"} & changes.keys():
        # Files of 0.1 do not name a length that was the default of the library then.
        length = recorded.get("seconds") or recorded.get("num_frames") or settings["clip"][2]
        if recorded.get("seconds") is None and recorded.get("latents") is None:
            recorded["num_frames"] = length
    plain = Request.from_settings(recorded | {"prompt": changes.get("prompt", recorded.get("prompt"))})
    return plain.changed(**changes)


@dataclass(frozen=True, kw_only=True)
class RecordedEdit:
    """An edit of a video, as recorded in a file.

    ``source`` is the video that was edited. ``own`` are the arguments that only this kind of edit has, such
    as regions; ``fields`` are the keywords of its request, without the prompt.
    """

    prompt: str
    source: Path | None
    own: EditArguments
    fields: RequestOptions


@dataclass(frozen=True, kw_only=True)
class RecordedLong:
    """A long clip, as recorded in a file.

    ``prompts`` are its prompts with their times, ``source`` is its control video (None without one),
    ``windows`` are the keywords of :class:`LongVideo` that divide it into windows, and ``fields`` are the
    keywords of its request, without the prompt.
    """

    prompts: PromptSchedule
    source: Path | None
    windows: WindowArguments
    fields: RequestOptions


def repeated_edit(settings: ParsedJson, changes: Mapping[str, Any], *, source: Path | None) -> RecordedEdit:
    """Return the edit recorded in ``settings``, for a call that replaces the request fields in ``changes``.

    The ``fields`` of the result lack those in ``changes``, those that contradict them, and size and frame
    rate, which the source decides. ``source`` is a video that replaces the recorded source; None takes the
    recorded one. Raises ValueError for a recorded source that was in memory, is gone or has changed.
    """
    fields = _named_fields(settings, {*changes, *_SIZE})
    return RecordedEdit(
        prompt=settings["request"]["prompt"],
        source=_source(settings) if source is None else source,
        own=_own_arguments(settings),
        fields=fields,
    )


def repeated_long(settings: ParsedJson, changes: Mapping[str, Any], *, source: Path | None) -> RecordedLong:
    """Return the long clip recorded in ``settings``, to be made again with the request fields ``changes``.

    The ``fields`` of the result lack those in ``changes`` and those that cannot be combined with them, such
    as the number of steps beside new noise levels. They include the images that guide the clip at a frame,
    unless ``changes`` has images. ``source`` is a video that replaces the recorded source; None takes the
    recorded one, if there is one. Raises ValueError for an image or a source that is used and was no file
    when it was recorded, is gone or has changed.
    """
    frames, overlap, strength, adain = settings["window"]
    windows: WindowArguments = {
        "window_frames": frames,
        "overlap_frames": overlap,
        "overlap_strength": strength,
        "adain_factor": adain,
    }
    before = settings["source"]
    path = source
    if before is not None:
        path = _source(settings) if source is None else source
        # The second value is the scale in use, which the LoRAs decide again.
        _, windows["source_strength"], _, windows["denoise"] = before
    parts = tuple((float(start), prompt) for start, prompt in settings["prompts"])
    prompts = PromptSchedule(parts, by_window=bool(settings.get("by_window")))
    fields = {**_named_fields(settings, set(changes)), **_keyframe_images(settings, changes)}
    return RecordedLong(prompts=prompts, source=path, windows=windows, fields=cast("RequestOptions", fields))


def _keyframe_images(settings: ParsedJson, changes: Mapping[str, Any]) -> dict[str, tuple[ImageAt, ...]]:
    """Return the images that guide a recorded long clip at a frame, as the field "images" of a request.

    The result is {} if there are none, or if ``changes`` has other images.
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
    arguments: WindowArguments, source: Path | None, *, background: Colour = BLACK
) -> LongVideo:
    """Make the division of a long clip into windows from ``arguments``, keywords of :class:`LongVideo`.

    ``source`` is a video file to open as its source, None for none. ``background`` is the RGB colour in [0,
    1] that replaces transparent pixels of the source.
    """
    opened = None if source is None else FramesInFile.open(source, background=background)
    return LongVideo(**arguments, source=opened)


def check_files(settings: ParsedJson, pipeline: LTX2Pipeline, *, named_loras: bool) -> str | None:
    """Compare the names of the checkpoint files of ``pipeline`` with those recorded in ``settings``.

    Returns a line for the user if they differ, else None. Raises ValueError if the settings have LoRAs and
    ``named_loras`` is False: the user named none.
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


def _with_files(settings: ParsedJson, changes: Iterable[str]) -> JsonObject:
    """Return the recorded request with the current paths of its files, except fields in ``changes``."""
    return with_found_files(settings["request"], settings.get("inputs", {}), replaced={*changes})


def _named_fields(settings: ParsedJson, changes: set[str]) -> RequestOptions:
    """Return the recorded request fields whose values the user of that run chose, and not the recipe.

    Fields named in ``changes``, or contradicted by one of them, are left out, and so are ``prompt``,
    ``source_clip`` and ``denoise``, which are arguments of the edit or long clip.
    """
    chosen = {*settings.get("recipe", {}).get("chose", ())}
    recorded = without(_with_files(settings, changes), changes)
    # The prompt and the source are arguments of the edit.
    apart = chosen | {"prompt", "source_clip", "denoise"}
    plain = {name: value for name, value in recorded.items() if value is not None and name not in apart}
    fields = from_json({**plain, "prompt": settings["request"]["prompt"]})
    del fields["prompt"]
    return fields


def _source(settings: ParsedJson) -> Path:
    record = settings.get("source_file")
    if record is None:
        raise ValueError(
            "the file does not say which video it was made from (it was in memory, or an earlier version "
            "wrote it): name it with --video"
        )
    return Path(found(record["path"], record, "source"))


def _own_arguments(settings: ParsedJson) -> EditArguments:
    """Return the recorded arguments of the edit in ``settings`` that only its kind has, such as regions."""
    own = dict(settings[next(key for key in _EDITS if key in settings)])
    # The record has frames, in whatever unit the user wrote the length.
    if "new_frames" in own:
        own["frames"] = own.pop("new_frames")
    for name in ("video", "audio"):
        if name in own:
            own[name] = tuple((start, end) for start, end in own[name])
    return cast(EditArguments, own)
