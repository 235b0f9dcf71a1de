"""From a request to a file: a progress bar, and latents that outlive a decode that fails."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
from torch import Tensor
from tqdm import tqdm

from ..editing import Edit, EditTask
from ..editing.task import EditKind
from ..media import check_output, write_wav
from ..out_of_memory import OutOfMemory, is_out_of_memory
from ..run.generation import Generation
from ..run.pipeline import LTX2Pipeline, Progress
from ..run.request import Request
from ..run.request_json import from_json
from ..run.saved_latents import find_saved, read_saved, remove_saved, resume, save_latents
from ..types import Numerics
from .options import Chosen
from .values import Output, execution_of


def run(pipeline: LTX2Pipeline, request: Request, output: Output) -> None:
    """Sample and save with a progress bar on stderr; the latents are on disk until the file is written."""
    with (
        _bar(output, "step") as bar,
        _saved_until_written("generate", output.path) as saved,
    ):
        generation = pipeline(request, on_step=None if bar is None else lambda p: _show(bar, p))
        # Saved before decoding, which may run out of memory after minutes of sampling.
        _save_latents(saved, generation, output.path, pipeline)
        _save(generation, output.path, bar)


@dataclass(frozen=True, kw_only=True)
class EditRun:
    """One edit of the command line: ``own`` are the arguments of its kind, ``fields`` those of a request."""

    kind: EditKind
    prompt: str
    source: Path | None
    own: Mapping[str, Any]
    fields: Mapping[str, Any]

    def task(self, fields: Mapping[str, Any] | None = None) -> EditTask:
        """The edit as a task; ``fields`` take the place of its own."""
        options = {**(self.fields if fields is None else fields), **self.own}
        return EditTask(kind=self.kind, prompt=self.prompt, source=self.source, options=options)

    def settings(self) -> dict[str, Any]:
        """JSON values, with the names of the fields, which :func:`_task_of` reads back."""
        plain = Request(prompt=self.prompt, **self.fields).settings()
        task = self.task({name: plain[name] for name in self.fields})
        return {**task.settings(), "fields": sorted(self.fields)}


def run_edit(pipeline: LTX2Pipeline, edit: EditRun, output: Path, *, quiet: bool) -> None:
    """Sample, finish and save an edit; its latents are on disk until the file is written."""
    settings = edit.settings()
    with (
        nullcontext() if quiet else tqdm(file=sys.stderr, unit="step") as bar,
        _saved_until_written("sound" if edit.kind == "audio" else edit.kind, output) as saved,
    ):

        def save(generation: Generation) -> None:
            _save_latents(saved, generation, output, pipeline, settings)

        on_step = None if bar is None else lambda progress: _show(bar, progress)
        task = edit.task({**edit.fields, "on_step": on_step})
        _save_edit(task.make(pipeline, on_sampled=save), output, bar)


def _task_of(settings: Mapping[str, Any]) -> EditTask:
    """The edit that was saved with its latents. Raises ValueError if its source has changed."""
    task = EditTask.from_settings(settings)
    names = set(settings.get("fields", ()))
    plain = {name: value for name, value in task.options.items() if name in names}
    fields = from_json({"prompt": task.prompt, **plain})
    return replace(task, options={**task.options, **{name: fields[name] for name in plain}})


def resume_run(chosen: Chosen, output: Output) -> Path:
    """Decode the newest saved latents, of ``output`` if it is named; returns the file written.

    Raises ValueError where none are saved, FileNotFoundError where the files of the model have moved.
    """
    path = find_saved(output.path if output.named else None)
    about = read_saved(path)
    # Without a named output the result goes where the interrupted run would have written it.
    target = output.path if output.named else Path(about["output"])
    # Before the networks are loaded, so that a wrong path costs no time.
    check_output(target)
    settings, edit = about["settings"], about.get("edit")
    # The latents were sampled in this dtype, and another one would decode them differently.
    execution = execution_of(chosen, dtype=chosen["dtype"] or settings["dtype"])
    files = chosen["checkpoints"] or about["files"]["checkpoints"]
    pipeline = LTX2Pipeline(*files, numerics=Numerics(settings["numerics"]), execution=execution)
    with (
        _bar(output, "frame") as bar,
        _saved_until_written("generate", target) as saved,
    ):
        saved.append(path)
        generation = resume(path, pipeline)
        if edit is None:
            _save(generation, target, bar)
        else:
            _save_edit(_task_of(edit).make(pipeline, sampled=generation), target, bar)
    return target


def _bar(output: Output, unit: str) -> Any:
    """A progress bar, or a context of None where none is shown."""
    return nullcontext() if output.quiet else tqdm(file=sys.stderr, unit=unit)


@contextmanager
def _saved_until_written(command: str, output: Path) -> Iterator[list[Path]]:
    """Files of latents that are removed if the block succeeds; if not, the command that resumes is shown."""
    saved: list[Path] = []
    try:
        yield saved
    # Latents are worth decoding after Ctrl+C, too, which is no Exception.
    except BaseException as error:
        if saved:
            click.echo(
                f"the sampled latents are saved in {saved[0].parent}; "
                f"ltx2 {command} --resume -o {output} decodes them",
                err=True,
            )
            # The message replaces a traceback, which says nothing about what to do.
            if is_out_of_memory(error):
                raise click.ClickException(_memory_ran_out(error)) from error
        elif is_out_of_memory(error):
            raise click.ClickException(str(error)) from error
        raise
    for path in saved:
        remove_saved(path)


def _memory_ran_out(error: BaseException) -> str:
    """One line on a lack of memory, which may come from anywhere in decoding."""
    return str(error) if isinstance(error, OutOfMemory) else f"memory ran out while decoding: {error}"


def _save_latents(
    saved: list[Path],
    generation: Generation,
    output: Path,
    pipeline: LTX2Pipeline,
    edit: Mapping[str, Any] | None = None,
) -> None:
    """Save latents before they are decoded, and add the file to ``saved``; without room, say so."""
    try:
        saved.append(save_latents(generation, output, files=_files(pipeline), edit=edit))
    except OSError as error:
        # Decoding needs no disk but for the result, which may be on another one by now.
        click.echo(f"the sampled latents could not be saved before decoding: {error}", err=True)


def _files(pipeline: LTX2Pipeline) -> dict[str, Any]:
    return {"checkpoints": [str(file.path.resolve()) for file in pipeline.networks.checkpoints]}


def _save(generation: Generation, output: Path, bar: Any) -> None:
    generation.save(output, on_frames=_on_frames(bar, generation.clip.frames))


def _save_edit(result: Edit | tuple[Tensor, int], output: Path, bar: Any = None) -> None:
    if isinstance(result, Edit):
        result.save(output, on_frames=_on_frames(bar, result.frame_count))
    else:
        write_wav(output, *result)


def _on_frames(bar: Any, frames: int) -> Callable[[int, int], None] | None:
    if bar is None:
        return None
    return lambda done, total: _show(bar, Progress(stage="decode", step=done, steps=frames))


def _show(bar: Any, progress: Progress) -> None:
    # One bar serves all stages; the second test notices a stage of the same name that starts again.
    if bar.desc != f"{progress.stage}: " or progress.step < bar.n:
        bar.set_description(progress.stage, refresh=False)
        bar.reset(total=progress.steps)
    bar.n = progress.step
    bar.refresh()
