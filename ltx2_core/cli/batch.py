"""The command ``ltx2 batch``: runs a file of jobs, here or on a Ray cluster."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from .options import Chosen, command

if TYPE_CHECKING:
    from ..serve.batch_jobs import Variants
    from ..serve.served_model import ServedModel

DEFAULT: Final = "default"
"""The id of the model that the options of the command name."""


@command("batch", argument="jobs")
def batch(chosen: Chosen) -> None:
    """Run the jobs of a file, one on each line as JSON. The same command resumes what was interrupted.

    A line is the body of POST /v1/jobs of ltx2 serve, such as {"request": {"prompt": "a ball", "seed": 3}}; a
    "name" names its clip. Exit code 1 if a job has failed.
    """
    import logging

    from ..serve.batch import RESULTS, Batch, forever, state_of
    from ..serve.batch_jobs import read_jobs
    from ..serve.service import Settings
    from .ray import group_of, ray_runners
    from .serve import holding_of
    from .values import execution_of

    if chosen["jobs"] is None:
        raise ValueError("--jobs is missing: name a file with one job on each line")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s:  %(message)s")
    models = _models(chosen)
    jobs = read_jobs(chosen["jobs"], DEFAULT if DEFAULT in models else next(iter(models)), _variants(chosen))
    folder: Path = chosen["results_folder"].resolve()
    settings = Settings(
        state=state_of(folder),
        models=models,
        execution=execution_of(chosen, group_of(chosen)),
        holding=holding_of(chosen),
        retention=forever(chosen["job_seconds"]),
    )
    run = Batch(folder, jobs, settings, ray_runners(chosen, settings))
    run.check()
    folder.mkdir(parents=True, exist_ok=True)
    results = _with_bar(run, len(jobs))
    if chosen["contact_sheet"]:
        _write_sheet(folder, results)
    click.echo(folder / RESULTS)
    failed = [result for result in results if result["state"] != "succeeded"]
    for result in failed:
        click.echo(f"line {result['line']}: {result['name']} {result['state']}: {result['error']}", err=True)
    if failed:
        sys.exit(1)


def _models(chosen: Chosen) -> dict[str, ServedModel]:
    """The models of the jobs: those of --models, and the one that the other options name."""
    from ..serve.models import read_models
    from ..serve.served_model import ServedModel
    from .values import naming

    checkpoints = chosen["checkpoints"]
    with naming("--models"):
        models = read_models(chosen["model_list"])
    if checkpoints:
        models[DEFAULT] = ServedModel(
            id=DEFAULT,
            base_model=checkpoints[0].name,
            checkpoints=tuple(checkpoints),
            text_encoder=chosen["text_encoder"],
            upscaler=chosen["upscaler"],
            video_decoder=chosen["video_decoder"],
        )
    return models


def _variants(chosen: Chosen) -> Variants:
    from ..serve.batch_jobs import Variants
    from .several import parse_seeds, read_prompts

    prompts, seeds = chosen["prompts_file"], chosen["seeds"]
    return Variants(
        prompts=() if prompts is None else read_prompts(prompts),
        grids=[_grid(text) for text in chosen["grid"]],
        seeds=() if seeds is None else parse_seeds(seeds),
    )


def _grid(text: str) -> tuple[str, list[Any]]:
    """Parse ``steps=8,20`` -> ("steps", [8, 20]). Values that are no JSON are text."""
    name, sign, values = text.partition("=")
    if not sign or not name.isidentifier() or not values.strip():
        raise ValueError(f"--grid {text}: write a field of the request and its values, such as steps=8,20")
    return name, [_value(one.strip()) for one in values.split(",")]


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _with_bar(run: Any, count: int) -> list[Any]:
    from tqdm import tqdm

    with tqdm(total=count, desc="jobs", file=sys.stderr, bar_format="{l_bar}{bar}| {n:.1f}/{total}") as bar:

        def show(ended: int, running: float) -> None:
            bar.n = ended + running
            bar.refresh()

        results: list[Any] = run.run(show)
    return results


def _write_sheet(folder: Path, results: list[Any]) -> None:
    """Write an image with frames of all clips that have video."""
    from ..media.sheet import some_frames, write_sheet

    rows = [
        (f"{result['name']}: {result['what']}", some_frames(folder / result["file"]))
        for result in results
        if result["state"] == "succeeded" and result["width"]
    ]
    if rows:
        write_sheet(rows, folder / "sheet.png")
        click.echo(folder / "sheet.png")
