"""From a request to a file: a progress bar, and latents that outlive a decode that fails."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from ..generation import Generation
from ..kept import about_kept, find_kept, keep_latents, resume
from ..media import check_output
from ..out_of_memory import is_out_of_memory
from ..pipeline import LTX2Pipeline, Progress
from ..request import Request
from ..types import Numerics


def run(pipeline: LTX2Pipeline, request: Request, output: Path, *, quiet: bool) -> None:
    """Sample and save with a progress bar on stderr; the latents are on disk until the file is written."""
    with nullcontext() if quiet else tqdm(file=sys.stderr, unit="step") as bar:
        generation = pipeline(request, on_step=None if bar is None else lambda p: _show(bar, p))
        files = {"checkpoints": [str(file.path.resolve()) for file in pipeline.networks.checkpoints]}
        _save(generation, output, keep_latents(generation, output, files=files), bar)


def resume_run(output: Path | None, checkpoints: Sequence[Path], *, quiet: bool, **options: Any) -> Path:
    """Decode the newest latents that were kept, of ``output`` if one is named; returns the file written.

    Raises ValueError where none are kept, FileNotFoundError where the files of the model have moved.
    """
    kept = find_kept(output)
    about = about_kept(kept)
    target = Path(about["output"]) if output is None else output
    check_output(target)
    numerics = Numerics(about["settings"]["numerics"])
    pipeline = LTX2Pipeline(*(checkpoints or about["files"]["checkpoints"]), numerics=numerics, **options)
    with nullcontext() if quiet else tqdm(file=sys.stderr, unit="frame") as bar:
        _save(resume(kept, pipeline), target, kept, bar)
    return target


def _save(generation: Generation, output: Path, kept: Path, bar: Any) -> None:
    frames = generation.clip.frames
    try:
        generation.save(
            output,
            on_frames=None
            if bar is None
            else lambda done, total: _show(bar, Progress(stage="decode", step=done, steps=frames)),
        )
    except BaseException as error:
        click.echo(f"what was sampled is kept; ltx2 generate --resume -o {output} decodes it", err=True)
        if is_out_of_memory(error):
            raise click.ClickException(f"memory ran out while decoding: {error}") from error
        raise
    kept.unlink(missing_ok=True)


def _show(bar: Any, progress: Progress) -> None:
    if bar.desc != f"{progress.stage}: " or progress.step < bar.n:
        bar.set_description(progress.stage, refresh=False)
        bar.reset(total=progress.steps)
    bar.n = progress.step
    bar.refresh()
