"""Decodes the saved latents of an interrupted run and writes its file (``--resume``)."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace

from ..editing import EditTask
from ..media import Encoding
from ..run.job import DECODE, Part
from ..run.options import by_name
from ..run.pipeline import LTX2Pipeline
from ..run.request_json import from_json
from ..run.saved_latents import find_saved, read_saved, resume, saved_windows
from ..storage.files import ParsedJson
from ..types import Numerics
from .bar import job_bar
from .options import Chosen
from .saving import command_of, is_embedded, save_edit, save_generation, saved_until_written
from .summary import report
from .values import Output, execution_of

_SAME = (
    "prompt",
    "negative_prompt",
    "seed",
    "stages",
    "steps",
    "cfg",
    "audio_cfg",
    "sampler",
    "distilled",
    "fps",
)
"""Options that the sampled latents depend on, and that are stored as they are written."""


def resume_run(chosen: Chosen, output: Output) -> Output:
    """Decode saved latents and write the file of their run.

    If the user named an output, the latents are those of that output, else the newest. Returns the output
    that was written. Raises ValueError if no latents are saved, FileNotFoundError if model files have moved.
    """
    path = find_saved(output.text if output.named else None)
    about = read_saved(path)
    # Without a named output the result goes where the interrupted run would have written it.
    target = output if output.named else output.to(about["output"])
    settings, edit = about["settings"], about.get("edit")
    _check_same(chosen, settings["request"])
    # Encoding options of this command replace those of the interrupted run.
    written = {**about.get("encoding", {}), **output.encoding.settings()}
    target = replace(target, encoding=Encoding(**written))
    # Before the networks are loaded, so that a wrong path costs no time.
    target.check(audio_alone=edit is not None and edit["kind"] == "audio")
    # The latents were sampled in this dtype, and another one would decode them differently.
    execution = execution_of(chosen, recorded=settings)
    files = chosen["checkpoints"] or about["files"]["checkpoints"]
    pipeline = LTX2Pipeline(*files, numerics=Numerics(settings["numerics"]), execution=execution)
    command = "generate" if edit is None else command_of(edit["kind"])
    with (
        job_bar((Part(DECODE, 1.0),), quiet=output.quiet) as bar,
        saved_until_written(command, target) as saved,
    ):
        saved.append(path)
        generation = resume(path, pipeline)
        if edit is None:
            save_generation(generation, target, bar)
            clip = generation.as_clip()
        else:
            made = _task_of(edit).make(pipeline, sampled=generation)
            clip = save_edit(made, generation, target, bar, pipeline)
    shutil.rmtree(saved_windows(target.text), ignore_errors=True)
    seed = generation.request.seed
    report(target, clip, pipeline.networks.clock, seed=seed, embedded=is_embedded(pipeline))
    return target


def _check_same(chosen: Chosen, request: ParsedJson) -> None:
    """Raise ValueError if an option was written that is not that of the saved run, whose request is given.

    ``request`` has JSON values. A command may be repeated with --resume as it was, and a changed option would
    have no effect.
    """
    changed = {"trigger", "enhance_prompt"} & chosen.explicit.keys()
    for name in _SAME:
        written, saved = chosen.explicit.get(name), request.get(name)
        # A seed of -1 was drawn, and these options changed the prompt.
        if written is None or saved is None or (name == "seed" and written == -1):
            continue
        if written != saved and not (name == "prompt" and changed):
            raise ValueError(
                f"the saved latents are of {by_name(name).flag} {saved!r:.60} and not of {written!r:.60}: "
                "leave it out to decode them, or run the command without --resume"
            )


def _task_of(settings: ParsedJson) -> EditTask:
    """Make the edit from the JSON values that were stored with its latents.

    Raises ValueError if the source video is gone or has changed.
    """
    task = EditTask.from_settings(settings)
    names = set(settings.get("fields", ()))
    plain = {name: value for name, value in task.options.items() if name in names}
    fields: Mapping[str, object] = from_json({"prompt": task.prompt, **plain})
    return replace(task, options={**task.options, **{name: fields[name] for name in plain}})
