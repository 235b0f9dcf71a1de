"""The command ``ltx2 train``: trains models with the training code of this package."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import PathType
from .train_run import full, lora

if TYPE_CHECKING:
    import torch

    from ..tiny.write import TinySet
    from ..training.tiny.run import Run
    from ..training.tiny.scales import Scale


@click.group()
def train() -> None:
    """Train models."""


train.add_command(lora)
train.add_command(full)


@train.command("import")
@click.argument("file", type=PathType(path_type=Path))
def import_(file: Path) -> None:
    """Print the settings of FILE, a configuration of ltx-trainer, ai-toolkit or musubi-tuner, as ours.

    What is printed is a toml file for --config. Keys without a counterpart follow as comments, with the
    reason if there is one.
    """
    from ..trainer.importing import import_config

    for line in import_config(file).lines():
        click.echo(line)


MAX_STEPS = 100_000_000


class Minutes(click.FloatRange):
    """The click type of an option that is a number of minutes; "inf" means no limit."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        minutes = super().convert(value, param, ctx)
        # NaN lies on neither side of a bound.
        if math.isnan(minutes):
            self.fail(f"{value} is not a number of minutes", param, ctx)
        return minutes


class StepsOption(click.ParamType):  # type: ignore[type-arg]  # generic in new versions of click only
    """The click type of an option ``STAGE=N``: the name of a training stage and its number of steps."""

    name = "stage=n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        stage, _, count = str(value).partition("=")
        # Cut before int(), which raises for a text of thousands of digits.
        if not stage or not count.isdecimal() or not 1 <= int(count[:10]) <= MAX_STEPS:
            self.fail(f"{value!r} is not a stage and a number of steps, such as transformer=8000", param, ctx)
        return stage, int(count)


def _check_stages(ctx: click.Context, _param: click.Parameter, names: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the values of an option if all name training stages of the chosen generation.

    Each value is a name, or (name, steps). Raises a usage error for others.
    """
    if not names:
        return names
    known = _stages(ctx.params["generation"])
    for name in names:
        stage = name if isinstance(name, str) else name[0]
        if stage not in known:
            raise click.BadParameter(f"{stage} is unknown: choose from {', '.join(known)}")
    return names


def _stages(generation: str) -> tuple[str, ...]:
    """The names of the training stages of a model ``generation``, "2.3" or "2.5", in their order."""
    from ..training.tiny.continued_stages import CONTINUED_STAGES
    from ..training.tiny.stages import STAGES

    return tuple(CONTINUED_STAGES if generation == "2.5" else STAGES)


@train.command()
@click.option(
    "--out",
    required=True,
    type=PathType(path_type=Path, file_okay=False),
    help="Folder for the models, the dataset and the training states.",
)
@click.option(
    "--generation",
    type=click.Choice(["2.3", "2.5"]),
    default="2.3",
    show_default=True,
    # Read by the checks of other options.
    is_eager=True,
    help="2.5 continues a trained set of 2.3: the embedded one, or that of --from.",
)
@click.option(
    "--stage",
    "stages",
    multiple=True,
    callback=_check_stages,
    metavar="NAME",
    help="Run only this stage; may be repeated.",
)
@click.option(
    "--scale",
    type=click.Choice(["full", "gpu", "smoke"]),
    default="full",
    show_default=True,
    help="full: hours on two CPU cores. gpu: for --device cuda. smoke: a minute, tests that all stages run.",
)
@click.option(
    "--steps",
    multiple=True,
    callback=_check_stages,
    type=StepsOption(),
    help="Number of steps of a stage; may be repeated.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    help="Seed of initial weights, data and noise.",
)
@click.option(
    "--from",
    "models",
    type=PathType(path_type=Path, exists=True, file_okay=False),
    help="Folder of a trained set of 2.3 to start from. With --generation 2.3, --stage names what trains "
    "further; the other networks are reused.",
)
@click.option(
    "--max-minutes",
    type=Minutes(min=0, min_open=True),
    default=math.inf,
    help="Save and stop after this many minutes.",
)
@click.option("--threads", type=click.IntRange(1, 1024), help="Number of CPU threads [default: all cores].")
@click.option("--device", default="cpu", show_default=True, help="Device of gradient steps: cpu or cuda.")
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="Number of processes that encode the dataset.",
)
@click.option("--bf16", is_flag=True, help="Compute gradient steps under bfloat16 autocast.")
@click.option(
    "--list",
    "only_list",
    is_flag=True,
    help="List the stages, their expected and actual minutes and whether they are done, then exit.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print no progress.")
def tiny(  # noqa: PLR0913 click passes one argument for each option
    out: Path,
    generation: str,
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
    """Train the tiny LTX-2 of this package: 2.3 from random weights, 2.5 from a trained set of 2.3.

    Stages run in order and are skipped if their output exists, so the same command resumes a stopped run. The
    models are written to OUT/models, laid out like ComfyUI's folders, and loss curves to OUT/state.
    """
    import torch

    from ..run.request import NEGATIVE_PROMPT
    from ..training.tiny.run import Run, Unfinished
    from ..training.tiny.stages import run_stages

    if threads:
        torch.set_num_threads(threads)
    if not quiet:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
    run = Run(
        folder=out,
        base=_base(generation, models),
        scale=_scale(generation, scale),
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
        _start(run, models, stages)
        run_stages(run, stages or None, on_stage=on_stage)
    except Unfinished as stop:
        # A planned stop is no failure, so that a script which resumes gets status 0.
        click.echo(f"stopped: {stop}. The same command resumes.")
        return
    except FloatingPointError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"models: {out / 'models'}")


def _base(generation: str, models: Path | None) -> TinySet | None:
    """The trained set of 2.3 that a training of 2.5 starts from; None for a training of 2.3.

    It is in the folder ``models``; None is the embedded set.
    """
    from ..tiny import embedded_set
    from ..tiny.write import TinySet

    if generation != "2.5":
        return None
    return embedded_set() if models is None else TinySet.in_folder(models)


def _start(run: Run, models: Path | None, stages: tuple[str, ...]) -> None:
    """If ``run`` starts from a trained set, copy the networks of that set into the folder of the run.

    A run of 2.5 always does; a run of 2.3 does if the user named ``models``, the folder of a set. In a run of
    2.3 the networks of ``stages``, which the user named, train further, and all others count as finished.
    """
    from ..tiny.write import TinySet
    from ..training.tiny.start import start_continued_from, start_from

    if run.base is not None:
        start_continued_from(run, run.base)
    elif models is not None:
        start_from(run, TinySet.in_folder(models), stages)


def _scale(generation: str, name: str) -> Scale:
    """The scale (network sizes and numbers of training steps) called ``name`` for a model generation.

    Raises click's usage error if this generation has no such scale.
    """
    from ..training.tiny.continued_scales import CONTINUED_SCALES
    from ..training.tiny.scales import SCALES

    known = CONTINUED_SCALES if generation == "2.5" else SCALES
    if name not in known:
        raise click.UsageError(
            f"--scale {name} is not for --generation {generation}: use {' or '.join(known)}"
        )
    return known[name]()


def _device(name: str) -> torch.device:
    """Return the torch device called ``name``, such as "cuda".

    Raises click's usage error if it is not available.
    """
    from ..run.devices import usable_device

    try:
        return usable_device(name)
    except ValueError as error:
        raise click.UsageError(f"--{error}") from error


def _show_stages(run: Any, stages: tuple[str, ...]) -> None:
    """Print a line for each training stage: expected minutes, minutes spent so far, and whether it is done.

    ``run`` is the training run. ``stages`` are names of stages; () stands for all.
    """
    from ..training.tiny.stages import tables

    cost, scale = run.cost(), run.scale
    for stage in stages or tables(run)[0]:
        done = all(path.exists() for path in run.outputs(stage))
        click.echo(
            f"{stage:17} {_minutes(scale, stage):>24}  spent {cost.get(stage, 0) / 60:6.1f} min"
            f"{'  done' if done else ''}"
        )


def _minutes(scale: Scale, stage: str) -> str:
    minutes = scale.minutes.get(stage)
    return "" if minutes is None else f"about {minutes:g} min on {scale.machine}"
