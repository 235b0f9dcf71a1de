"""From a request to a file: a progress bar, and latents that outlive a decode that fails."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor
from tqdm import tqdm

from ..editing import Edit, EditTask
from ..media import check_output, write_wav
from ..out_of_memory import is_out_of_memory
from ..run.generation import Generation
from ..run.pipeline import LTX2Pipeline, Progress
from ..run.request import Request
from ..run.saved_latents import find_saved, read_saved, resume, save_latents
from ..types import Numerics

RESUME_HELP = "Decode what an earlier run had sampled when it failed: that for -o, or the last one."


def run(pipeline: LTX2Pipeline, request: Request, output: Path, *, quiet: bool) -> None:
    """Sample and save with a progress bar on stderr; the latents are on disk until the file is written."""
    with (
        nullcontext() if quiet else tqdm(file=sys.stderr, unit="step") as bar,
        _saved_until_written("generate", output) as kept,
    ):
        generation = pipeline(request, on_step=None if bar is None else lambda p: _show(bar, p))
        kept.append(save_latents(generation, output, files=_files(pipeline)))
        _save(generation, output, bar)


def run_edit(pipeline: LTX2Pipeline, task: EditTask, output: Path) -> None:
    """Sample, finish and save an edit; its latents are on disk until the file is written."""
    with _saved_until_written("sound" if task.kind == "audio" else task.kind, output) as kept:

        def keep(generation: Generation) -> None:
            files = _files(pipeline)
            kept.append(save_latents(generation, output, files=files, edit=task.settings()))

        _save_edit(task.make(pipeline, on_sampled=keep), output)


def resume_run(output: Path | None, checkpoints: Sequence[Path], *, quiet: bool, **options: Any) -> Path:
    """Decode the newest latents that were kept, of ``output`` if one is named; returns the file written.

    Raises ValueError where none are kept, FileNotFoundError where the files of the model have moved.
    """
    path = find_saved(output)
    about = read_saved(path)
    target = Path(about["output"]) if output is None else output
    check_output(target)
    settings, edit = about["settings"], about.get("edit")
    if options.get("dtype") is None:
        options["dtype"] = getattr(torch, settings["dtype"])
    files = checkpoints or about["files"]["checkpoints"]
    pipeline = LTX2Pipeline(*files, numerics=Numerics(settings["numerics"]), **options)
    with (
        nullcontext() if quiet else tqdm(file=sys.stderr, unit="frame") as bar,
        _saved_until_written("generate", target) as kept,
    ):
        kept.append(path)
        generation = resume(path, pipeline)
        if edit is None:
            _save(generation, target, bar)
        else:
            _save_edit(EditTask.from_settings(edit).make(pipeline, sampled=generation), target, bar)
    return target


@contextmanager
def _saved_until_written(command: str, output: Path) -> Iterator[list[Path]]:
    """Files of latents that are removed if the block ends well; if not, how to go on from them is said."""
    kept: list[Path] = []
    try:
        yield kept
    except BaseException as error:
        if kept:
            click.echo(f"what was sampled is kept; ltx2 {command} --resume -o {output} decodes it", err=True)
            if is_out_of_memory(error):
                raise click.ClickException(f"memory ran out while decoding: {error}") from error
        raise
    for path in kept:
        path.unlink(missing_ok=True)


def _files(pipeline: LTX2Pipeline) -> dict[str, Any]:
    return {"checkpoints": [str(file.path.resolve()) for file in pipeline.networks.checkpoints]}


def _save(generation: Generation, output: Path, bar: Any) -> None:
    generation.save(output, on_frames=_on_frames(bar, generation.clip.frames))


def _save_edit(made: Edit | tuple[Tensor, int], output: Path, bar: Any = None) -> None:
    if isinstance(made, Edit):
        made.save(output, on_frames=_on_frames(bar, made.frame_count))
    else:
        write_wav(output, *made)


def _on_frames(bar: Any, frames: int) -> Callable[[int, int], None] | None:
    if bar is None:
        return None
    return lambda done, total: _show(bar, Progress(stage="decode", step=done, steps=frames))


def _show(bar: Any, progress: Progress) -> None:
    if bar.desc != f"{progress.stage}: " or progress.step < bar.n:
        bar.set_description(progress.stage, refresh=False)
        bar.reset(total=progress.steps)
    bar.n = progress.step
    bar.refresh()
