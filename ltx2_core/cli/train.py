"""``ltx2 train``: make models with the project's own training code."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import torch

    from ..training.tiny.scales import Scale


@click.group()
def train() -> None:
    """Train models."""


class StepsOption(click.ParamType):  # type: ignore[type-arg]  # generic in new versions of click only
    """``STAGE=N``."""

    name = "stage=n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        stage, _, count = str(value).partition("=")
        if not stage or not count.isdigit():
            self.fail(f"{value!r} is not a stage and a number of steps, such as transformer=8000", param, ctx)
        return stage, int(count)


@train.command()
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder to work in."
)
@click.option("--stage", "stages", multiple=True, metavar="NAME", help="Only this stage; may be repeated.")
@click.option(
    "--scale",
    type=click.Choice(["full", "gpu", "smoke"]),
    default="full",
    show_default=True,
    help="full is for two cores, gpu for --device cuda; smoke only shows that everything runs.",
)
@click.option("--steps", multiple=True, type=StepsOption(), help="Steps of a stage in place of the recipe's.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of weights, data and noise.")
@click.option(
    "--from",
    "models",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Go on from the set in these model folders: stages that are named begin with its weights.",
)
@click.option("--max-minutes", type=float, default=math.inf, help="Stop, saved, after so long.")
@click.option("--threads", type=int, help="Of torch; by default all cores.")
@click.option("--device", default="cpu", show_default=True, help="Where gradient steps are: cpu, cuda.")
@click.option("--workers", default=1, show_default=True, help="Processes that make latents.")
@click.option("--bf16", is_flag=True, help="Compute under bfloat16 autocast.")
@click.option(
    "--list", "only_list", is_flag=True, help="Show the stages with their cost and state, and stop."
)
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def tiny(
    out: Path,
    stages: tuple[str, ...],
    scale: str,
    steps: tuple[tuple[str, int], ...],
    seed: int,
    models: Path | None,
    max_minutes: float,
    threads: int | None,
    device: str,
    workers: int,
    bf16: bool,
    only_list: bool,
    quiet: bool,
) -> None:
    """Make the tiny LTX-2 of the synthetic world, from nothing.

    Stages run in order and are skipped when their output exists, so the same command goes on after a stop.
    The models are in OUT/models, laid out like ComfyUI's folders; a stage's loss curve is in OUT/state.
    """
    import torch

    from ..run.request import NEGATIVE_PROMPT
    from ..tiny.write import TinySet
    from ..training.tiny.run import Run, Unfinished
    from ..training.tiny.scales import SCALES
    from ..training.tiny.stages import run_stages
    from ..training.tiny.start import start_from

    if threads:
        torch.set_num_threads(threads)
    if not quiet:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
    run = Run(
        folder=out,
        scale=SCALES[scale](),
        seed=seed,
        prompts=("", NEGATIVE_PROMPT),
        steps=dict(steps),
        max_seconds=max_minutes * 60,
        dtype=torch.bfloat16 if bf16 else torch.float32,
        device=_device(device),
        workers=workers,
        progress=not quiet,
    )
    if not quiet or only_list:
        _show_stages(run, stages)
    if only_list:
        return

    def on_stage(stage: str, event: str) -> None:
        if not quiet:
            click.echo(f"{stage}: {event}")

    try:
        if models is not None:
            start_from(run, TinySet.in_folder(models), stages)
        run_stages(run, stages or None, on_stage=on_stage)
    except Unfinished as stop:
        click.echo(f"stopped: {stop}. The same command goes on from there.")
        return
    except (ValueError, OSError, FloatingPointError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"models: {out / 'models'}")


def _device(name: str) -> torch.device:
    """Raises a usage error for a device that is not there."""
    import torch

    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise click.UsageError(f"--device {name}: {str(error).splitlines()[0]}") from error
    return device


def _show_stages(run: Any, stages: tuple[str, ...]) -> None:
    """What each stage is expected to take, what it has taken, and whether it is done."""
    from ..training.tiny.stages import STAGES

    cost, scale = run.cost(), run.scale
    for stage in stages or STAGES:
        done = stage in STAGES and all(path.exists() for path in run.outputs(stage))
        click.echo(
            f"{stage:12} {_minutes(scale, stage):>24}  spent {cost.get(stage, 0) / 60:6.1f} min"
            f"{'  done' if done else ''}"
        )


def _minutes(scale: Scale, stage: str) -> str:
    minutes = scale.minutes.get(stage)
    return "" if minutes is None else f"about {minutes:g} min on {scale.machine}"
