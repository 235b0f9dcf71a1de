"""The option ``--shots``: a shot list as keywords of a run, in which what the user wrote replaces values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import click

from ..run.options import by_name, check_stage2, options_of
from .options import Chosen

if TYPE_CHECKING:
    from ..run.flat_options import RequestFields, RequestOptions
    from ..run.pipeline import LTX2Pipeline
    from ..run.shots import Shots
    from ..run.shots.mapping import Find
    from ..text.schedule import PromptSchedule
    from .own_inputs import NamedFile

_OF_LISTS: Final = frozenset(
    {"shots", "prompts_at", "prompt_fade", "prompt_method", "width", "height", "num_frames", "seconds", "fps"}
)
"""Options of a shot list with a source that ltx2 retake does not have."""


def with_loras(chosen: Chosen) -> Chosen:
    """Return the options with the LoRAs of ``--shots``, unless the user wrote some."""
    if chosen["shots"] is None:
        return chosen
    shots, find = _read(chosen)
    texts: dict[str, tuple[str, ...]] = {"loras": (), "stage2_loras": ()}
    for lora in shots.loras:
        audio = lora.strength if lora.audio is None else lora.audio
        # Both strengths, so that a name that ends like a number stays a name.
        text = f"{find(lora.file)}:{lora.strength:g}:{audio:g}"
        texts["loras" if lora.stage is None else "stage2_loras"] += (text,)
    found = {name: value for name, value in texts.items() if value and name not in chosen.explicit}
    return replace(chosen, explicit={**chosen.explicit, **found})


def with_shots(chosen: Chosen, pipeline: LTX2Pipeline, fields: RequestFields) -> RequestFields:
    """Return the keywords of the request of ``--shots``, in which ``fields`` of the user replace values.

    Without that option ``fields`` are returned as they are. Times that are rounded to frames are printed on
    stderr. Raises ValueError, which names the file, for what cannot be read or does not fit the clip.
    """
    if chosen["shots"] is None:
        return fields
    from ..run.shots.request import request_of

    shots, find = _read(chosen)
    try:
        made, notes = request_of(shots, pipeline, fields, find)
    except (ValueError, OSError) as error:
        raise ValueError(f"{chosen['shots']}: {error}") from None
    for note in notes:
        click.echo(f"rounded: {note}", err=True)
    return made


def long_shots(
    chosen: Chosen, pipeline: LTX2Pipeline, fields: RequestFields
) -> tuple[PromptSchedule, RequestFields]:
    """The prompts and keywords of a long clip of ``--shots``; ``fields`` replace values.

    Raises ValueError for control videos, two stages and regions, which a long clip does not have.
    """
    from ..run.shots import long_prompts
    from ..run.shots.request import clip_of

    shots, _ = _read(chosen)
    if shots.regions:
        raise ValueError(f"{chosen['shots']}: regions are for ltx2 generate: leave source and regions out")
    if shots.control:
        raise ValueError(f"{chosen['shots']}: the control video of a long clip is that of --video")
    if shots.clip.stages == 2:
        raise ValueError(f"{chosen['shots']}: a window is sampled in one stage: set stages to 1")
    made = with_shots(chosen, pipeline, fields)
    try:
        prompts = long_prompts(shots, clip_of(shots, pipeline, fields))
    except ValueError as error:
        raise ValueError(f"{chosen['shots']}: {error}") from None
    apart = ("prompt", "prompts_at", "prompt_fade", "prompt_method", "stages")
    return prompts, cast("RequestFields", {name: value for name, value in made.items() if name not in apart})


def edits_source(chosen: Chosen) -> bool:
    """Whether the shot list of ``--shots`` names a source, of which seconds are regenerated."""
    return chosen["shots"] is not None and not chosen["resume"] and _read(chosen)[0].source is not None


def edit_source(chosen: Chosen) -> str | None:
    """Regenerate the regions of the source that the shot list of ``--shots`` names, as ``ltx2 retake`` does.

    Returns the path of the written file; None for a dry run, and if the clip is written to stdout. Raises
    ValueError for options that a retake does not have, and for what does not fit the source.
    """
    from ..editing.shots import retake_of
    from ..editing.task import source_record
    from .edit import run_made
    from .own_inputs import check_apart, named_files, written
    from .repeat import open_recorded
    from .saving import EditRun
    from .values import Output, request_fields

    allowed = {option.name for option in options_of("retake")} | _OF_LISTS
    for name in chosen.explicit:
        if name not in allowed:
            raise ValueError(
                f"{chosen['shots']} names a source, whose regions are regenerated as by ltx2 retake, which "
                f"has no {by_name(name).flag}: leave one of them out"
            )
    chosen = with_loras(chosen)
    chosen.check()
    output = Output.of(chosen)
    output.check()
    check_apart(written(output.destination), (*named_files(chosen), *shot_files(chosen)))
    pipeline = open_recorded(chosen, None)
    shots, find = _read(chosen)
    try:
        made = retake_of(shots, find, request_fields(chosen, pipeline), numerics=pipeline.numerics)
    except (ValueError, OSError) as error:
        raise ValueError(f"{chosen['shots']}: {error}") from None
    for note in made.notes:
        click.echo(note, err=True)
    check_stage2(chosen.explicit.keys(), made.fields.get("stages", 1))
    fields: RequestOptions = {**made.fields, "source_clip": source_record(made.source, "retake", made.own)}
    run = EditRun(kind="retake", prompt=made.prompt, source=made.source, own=made.own, fields=fields)
    return run_made(pipeline, run, output, chosen)


def shot_files(chosen: Chosen) -> Iterator[NamedFile]:
    """Yield every file that the shot list of ``--shots`` names; none without that option."""
    if chosen["shots"] is None:
        return
    shots, find = _read(chosen)
    lists = (shots.images, shots.control, shots.audio, shots.loras)
    files = [entry.file for entries in lists for entry in entries]
    files += [one.file for one in (shots.voice, shots.source) if one is not None]
    for file in files:
        yield f"a file of {chosen['shots']},", find(file)


def _read(chosen: Chosen) -> tuple[Shots, Find]:
    from ..run.shots import read_shots
    from ..run.shots.mapping import beside

    path: Path = chosen["shots"]
    return read_shots(path), beside(path)
