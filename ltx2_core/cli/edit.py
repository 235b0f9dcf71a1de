"""``ltx2 extend``, ``retake`` and ``sound``: a video in, an MP4 out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from .options import Chosen, command

EditKind = Literal["extend", "retake", "sound", "audio"]


@command("extend")
def extend(chosen: Chosen) -> None:
    """Extend a video: its last frames and their audio are preserved, and both continue."""
    _edit(
        "extend",
        chosen,
        seconds=chosen["extend_seconds"],
        frames=chosen["extend_frames"],
        keep_frames=chosen["keep_frames"],
    )


@command("retake")
def retake(chosen: Chosen) -> None:
    """Regenerate parts of a video and preserve the rest; a region past the end extends it."""
    from ..conditioning.regions import parse_regions
    from .values import naming

    regions = {}
    for name in ("video", "audio"):
        with naming(f"--{name}-region"):
            regions[name] = parse_regions(chosen[f"{name}_region"])
    _edit("retake", chosen, rounding=chosen["rounding"], paste=chosen["paste"], **regions)


@command("sound")
def sound(chosen: Chosen) -> None:
    """Generate audio for a video, whose frames are preserved, or audio alone."""
    seconds, source = chosen["sound_seconds"], chosen["source"]
    # A resumed run takes its source from the saved latents.
    if not chosen["resume"] and (source is None) == (seconds is None):
        raise click.UsageError("give --video, or --seconds for audio alone")
    if seconds is None:
        _edit("sound", chosen, ceiling_db=chosen["ceiling_db"])
    else:
        _edit("audio", chosen, ceiling_db=chosen["ceiling_db"], seconds=seconds)


def _edit(kind: EditKind, chosen: Chosen, **own: Any) -> None:
    """Make an edit, or finish one that was sampled; ``own`` are the arguments of that edit alone."""
    path = _resumed(chosen) if chosen["resume"] else _edited(kind, chosen, own)
    click.echo(str(path.resolve()))


def _resumed(chosen: Chosen) -> Path:
    from .saving import resume_run
    from .values import Output

    return resume_run(chosen, Output.of(chosen))


def _edited(kind: EditKind, chosen: Chosen, own: dict[str, Any]) -> Path:
    """Sample and save an edit; returns the path of the file."""
    from ..media import check_output
    from .saving import EditRun, run_edit
    from .values import Output, open_pipeline, request_fields

    _check_needed(chosen, ("prompt",) if kind == "audio" else ("source", "prompt"))
    chosen.check()
    output = Output.of(chosen)
    # Audio alone is no video, whatever the name in --output.
    path = output.path.with_suffix(".wav") if kind == "audio" else output.path
    check_output(path)
    pipeline = open_pipeline(chosen)
    fields = request_fields(chosen, pipeline)
    prompt = fields.pop("prompt")
    source = None if kind == "audio" else chosen["source"]
    if source is not None:
        regions = {name: own[name] for name in ("video", "audio") if name in own}
        fields["source_clip"] = {"path": str(source), "edit": kind, **regions}
    edit = EditRun(kind=kind, prompt=prompt, source=source, own=own, fields=fields)
    run_edit(pipeline, edit, path, quiet=output.quiet)
    return path


def _check_needed(chosen: Chosen, names: tuple[str, ...]) -> None:
    """Raise a usage error for an absent option of ``names``, which are required unless a run is resumed."""
    from ..run.options import by_name

    for name in names:
        if chosen[name] is None:
            raise click.UsageError(f"Missing option '{by_name(name).flag}'.")
