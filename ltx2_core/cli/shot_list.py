"""The option ``--shots``: a shot list as keywords of a run, in which what the user wrote replaces values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from .options import Chosen

if TYPE_CHECKING:
    from ..run.flat_options import RequestFields
    from ..run.pipeline import LTX2Pipeline
    from ..run.shots import Shots
    from ..run.shots.mapping import Find
    from ..text.schedule import PromptSchedule
    from .own_inputs import NamedFile


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

    Raises ValueError for control videos and two stages, which a long clip does not have.
    """
    from ..run.shots import long_prompts
    from ..run.shots.request import clip_of

    shots, _ = _read(chosen)
    if shots.control:
        raise ValueError(f"{chosen['shots']}: the control video of a long clip is that of --video")
    if shots.clip.stages == 2:
        raise ValueError(f"{chosen['shots']}: a window is sampled in one stage: set stages to 1")
    made = with_shots(chosen, pipeline, fields)
    try:
        prompts = long_prompts(shots, clip_of(shots, pipeline, fields))
    except ValueError as error:
        raise ValueError(f"{chosen['shots']}: {error}") from None
    apart = ("prompt", "prompts_at", "prompt_fade", "stages")
    return prompts, cast("RequestFields", {name: value for name, value in made.items() if name not in apart})


def shot_files(chosen: Chosen) -> Iterator[NamedFile]:
    """Yield every file that the shot list of ``--shots`` names; none without that option."""
    if chosen["shots"] is None:
        return
    shots, find = _read(chosen)
    lists = (shots.images, shots.control, shots.audio, shots.loras)
    for one in (*(entry for entries in lists for entry in entries), *filter(None, (shots.voice,))):
        yield f"a file of {chosen['shots']},", find(one.file)


def _read(chosen: Chosen) -> tuple[Shots, Find]:
    from ..run.shots import read_shots
    from ..run.shots.mapping import beside

    path: Path = chosen["shots"]
    return read_shots(path), beside(path)
