"""The commands ``ltx2 extend``, ``retake``, ``sound``, ``dub`` and ``hdr``, which edit a video."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import click

from .options import Chosen, command

if TYPE_CHECKING:
    from ..editing.task import EditArguments
    from ..run.pipeline import LTX2Pipeline
    from ..storage.files import ParsedJson
    from .repeat import RecordedEdit
    from .saving import EditRun
    from .values import Output

EditKind = Literal["extend", "retake", "sound", "audio", "dub", "hdr"]

_OWN: Final[Mapping[EditKind, Mapping[str, str]]] = {
    "extend": {
        "extend_seconds": "seconds",
        "extend_frames": "frames",
        "keep_frames": "keep_frames",
        "feather": "fade_frames",
        "exact_outside": "exact_outside",
    },
    "retake": {
        "video_region": "video",
        "audio_region": "audio",
        "rounding": "rounding",
        "paste": "paste",
        "feather": "feather",
        "allow_past_end": "allow_past_end",
        "exact_outside": "exact_outside",
        "source_fps": "source_fps",
    },
    "sound": {
        "ceiling_db": "ceiling_db",
        "sound_window_frames": "window_frames",
    },
    "audio": {"ceiling_db": "ceiling_db", "sound_seconds": "seconds"},
    "dub": {},
    "hdr": {"high_quality": "high_quality", "whole_stage2": "whole_stage2"},
}
"""Kind of edit -> the options that only this kind has, each with the name of its function's argument."""


_OWN_SIZE: Final[frozenset[EditKind]] = frozenset({"extend", "retake", "sound"})
"""Kinds of edits whose result has the size and the frame rate of the source."""


@command("extend")
def extend(chosen: Chosen) -> None:
    """Extend a video: new frames and audio continue from its last ones."""
    edit("extend", chosen)


@command("retake")
def retake(chosen: Chosen) -> None:
    """Regenerate parts of a video and preserve the rest."""
    edit("retake", chosen)


@command("sound")
def sound(chosen: Chosen) -> None:
    """Generate audio for a video, whose frames are preserved, or audio alone."""
    seconds, source = chosen["sound_seconds"], chosen["source"]
    # The source of a resumed or repeated run is recorded.
    known = chosen["resume"] or chosen["from_file"]
    if (source is None) == (seconds is None) if not known else bool(source and seconds):
        raise click.UsageError("give --video, or --seconds for audio alone")
    edit("sound" if seconds is None else "audio", chosen)


@command("dub", argument="source")
def dub(chosen: Chosen) -> None:
    """Dub a video: new speech in its voice, with lips that match. Needs the IC-LoRA of Dub-It."""
    edit("dub", chosen)


@command("hdr", argument="source")
def hdr(chosen: Chosen) -> None:
    """Make an HDR clip of an SDR video: EXR images of linear light. Needs the HDR IC-LoRA."""
    edit("hdr", chosen)


def edit(kind: EditKind, chosen: Chosen) -> None:
    """Run an edit of the kind ``kind``, or with ``--resume`` finish one whose sampled latents are saved.

    Prints the path of the written file on stdout, except if the clip itself is written there. ``chosen`` are
    the options of the call.
    """
    resumed = chosen["resume"] and not _has_windows(kind, chosen)
    path = _resumed(chosen) if resumed else _edited(kind, chosen)
    if path is not None:
        click.echo(path)


def _has_windows(kind: EditKind, chosen: Chosen) -> bool:
    """Whether an earlier ``ltx2 sound`` of the same output was stopped while it sampled window by window.

    A window is one of the parts in which the audio of a long video is sampled; other kinds of edit have none.
    True if finished windows are saved, but not the latents of the whole audio. The source video is needed to
    continue then: raises ValueError if the options name neither it nor a file for ``--from-file``.
    """
    from ..run.saved_latents import find_saved, saved_windows

    output = chosen["output"]
    if kind != "sound" or not saved_windows(output).is_dir():
        return False
    try:
        find_saved(output)
    except ValueError:
        if chosen["source"] is None and chosen["from_file"] is None:
            raise ValueError(f"windows of {output} are finished: run the whole command again") from None
        return True
    return False


def _resumed(chosen: Chosen) -> str | None:
    from .resuming import resume_run
    from .values import Output

    chosen.check()
    return resume_run(chosen, Output.of(chosen)).printed


def _edited(kind: EditKind, chosen: Chosen) -> str | None:
    """Sample and save an edit; returns the path of the written file.

    Returns None with ``--dry-run``, which prints the plan instead, and if the clip is written to stdout.
    """
    from ..editing.to_hdr import HDR
    from .own_inputs import check_apart, named_files, recorded_files, written
    from .repeat import check_command, open_recorded, settings_of
    from .values import Output

    recorded = None if chosen["from_file"] is None else settings_of(chosen["from_file"])
    if recorded is None:
        _check_needed(chosen, ("prompt",) if kind == "audio" else ("source", "prompt"))
    else:
        check_command(recorded, "sound" if kind == "audio" else kind, chosen["from_file"])
    chosen.check()
    output = Output.of(chosen, audio_alone=kind == "audio")
    if kind == "hdr" and chosen["hdr"] is None:
        output = output.of_space(HDR)
    if kind == "sound":
        output.destination.check_audio()
    if recorded is not None and "hdr" not in chosen.explicit:
        output = output.of_space(recorded["request"].get("hdr"))
    output.check(audio_alone=kind == "audio")
    check_apart(written(output.destination), (*named_files(chosen), *recorded_files(recorded, chosen)))
    pipeline = open_recorded(chosen, recorded)
    return run_made(pipeline, _run_of(kind, chosen, pipeline, recorded), output, chosen)


def run_made(pipeline: LTX2Pipeline, made: EditRun, output: Output, chosen: Chosen) -> str | None:
    """Sample and save the edit ``made``; returns the path of the written file.

    Returns None with ``--dry-run``, which prints the plan instead, and if the clip is written to stdout.
    Raises ValueError for a file that cannot be written so.
    """
    from ..media.recut import check_recut
    from .saving import run_edit

    # Before sampling, because the kind of the file decides whether packets can be copied.
    if made.own.get("exact_outside"):
        check_recut(output.destination, output.encoding)
    if made.source is not None:
        _check_written(made, output)
    if chosen["dry_run"]:
        _print_edit(pipeline, made)
        return None
    run_edit(pipeline, made, output)
    return output.printed


def _check_written(made: EditRun, output: Output) -> None:
    """Print a line for each thing in the source that the new file will lack, such as subtitles.

    If ``ltx2 sound`` has to encode the video again, because no kind of file can hold its packets, a line says
    that too. Raises ValueError if not the chosen kind of file but another one can hold them, or if the
    encoder does not support the size or the frame rate of the source.
    """
    from ..media import read_video
    from ..media.exr import is_exr_folder
    from ..media.other_tracks import left_out
    from ..media.remux import check_copy

    source, fmt = made.source, output.destination.format
    if source is None:
        return
    copied, notes = bool(made.own.get("exact_outside")), []
    # Folders of images and animations have one track.
    several = source.is_file() and fmt.video and fmt.audio
    if several and made.kind == "sound" and not output.encoding.of_video:
        notes = [check_copy(source, fmt)]
        copied = notes == [None]
    if made.kind in _OWN_SIZE and not copied and not is_exr_folder(source):
        clip = read_video(source)
        output.check_encoder(clip.width, clip.height, clip.fps)
    if not several:
        return
    for note in filter(None, (*notes, left_out(source, fmt if copied else None))):
        click.echo(note, err=True)


def _run_of(kind: EditKind, chosen: Chosen, pipeline: LTX2Pipeline, recorded: ParsedJson | None) -> EditRun:
    """Make the edit that the options describe.

    ``recorded`` are the settings of the file of ``--from-file``, or None without that option; options on the
    command line replace single settings.
    """
    from ..editing.task import source_record
    from ..run.options import check_stage2
    from .repeat import repeated_edit
    from .saving import EditRun
    from .values import request_fields

    fields = request_fields(chosen, pipeline)
    source = None if kind == "audio" else chosen["source"]
    before = None if recorded is None else repeated_edit(recorded, fields, source=source)
    if before is not None:
        source, fields = before.source, {**before.fields, "prompt": before.prompt, **fields}
    check_stage2(chosen.explicit.keys(), fields.get("stages", 1))
    own = _own_arguments(kind, chosen, before)
    prompt = fields.pop("prompt")
    if source is not None:
        fields["source_clip"] = source_record(source, kind, own)
    return EditRun(kind=kind, prompt=prompt, source=source, own=own, fields=fields)


def _own_arguments(kind: EditKind, chosen: Chosen, before: RecordedEdit | None) -> EditArguments:
    """The arguments that only this kind of edit has, such as the regions of a retake.

    Each comes from the command line if it is written there, else from ``before``, the edit of the
    ``--from-file`` file (None without one), else from the defaults.
    """
    own: dict[str, object] = {
        argument: _read(option, chosen[option])
        for option, argument in _OWN[kind].items()
        if before is None or option in chosen.explicit
    }
    # Each edit has its own number of feathered frames.
    if "feather" in _OWN[kind] and chosen["feather"] is None:
        own.pop(_OWN[kind]["feather"], None)
    recorded: dict[str, object] = {} if before is None else {**before.own}
    # A new length or region takes the place of the recorded one, in whatever unit or stream.
    for group in ({"seconds", "frames"}, {"video", "audio"}):
        if group & own.keys():
            recorded = {name: value for name, value in recorded.items() if name not in group}
    return cast("EditArguments", {**recorded, **own})


def _read(option: str, value: Any) -> Any:
    """Convert the value of an edit's option: regions are parsed, other values returned unchanged.

    Raises ValueError that names the flag.
    """
    from ..conditioning.regions import parse_regions
    from ..run.options import by_name
    from .values import naming

    if not option.endswith("_region"):
        return value
    with naming(by_name(option).flag):
        return parse_regions(value)


def _print_edit(pipeline: LTX2Pipeline, made: EditRun) -> None:
    from .plan import print_edit

    task = made.task()
    print_edit(pipeline, *task.plan(pipeline))


def _check_needed(chosen: Chosen, names: tuple[str, ...]) -> None:
    """Raise click's usage error if one of the options called ``names`` has no value."""
    from ..run.options import by_name

    for name in names:
        if chosen[name] is None:
            raise click.UsageError(f"Missing option '{by_name(name).flag}'.")
