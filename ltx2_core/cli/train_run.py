"""The commands ``ltx2 train lora`` and ``ltx2 train full``: train from an encoded dataset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..trainer.settings import FullSettings, LoraSettings, TrainSettings
from .options import PathType

if TYPE_CHECKING:
    from ..trainer.open_run import Opened

_Command = Callable[..., None]
_Train = Callable[..., Path]


def _options(kind: type[TrainSettings]) -> Callable[[_Command], _Command]:
    """Add an option for each setting of ``kind``; an option that is not written has no value."""

    def add(function: _Command) -> _Command:
        decorators: list[Callable[[_Command], _Command]] = [
            click.option("-q", "--quiet", is_flag=True, help="Print no progress."),
            click.option("--check", is_flag=True, help="Check settings and dataset, train nothing."),
            *(_option(one.name, one.default, one.metadata) for one in reversed(fields(kind))),
            click.option(
                "--config",
                type=PathType(path_type=Path),
                help="File of settings, toml or json; its keys are the names of the options below, with _ "
                "for -.",
            ),
        ]
        for decorator in decorators:
            function = decorator(function)
        return function

    return add


def _option(name: str, default: Any, facts: Any) -> Callable[[_Command], _Command]:
    flag = "--" + name.replace("_", "-")
    listed = isinstance(default, tuple)
    text = facts["help"]
    if default not in ("", ()) and "[default" not in text:
        written = str(default).lower() if isinstance(default, bool) else default
        text = f"{text} [default: {written}]"
    if listed:
        text = f"{text} May be repeated."
    if isinstance(default, bool):
        return click.option(f"{flag}/--no-{flag[2:]}", default=None, help=text)
    kind: Any = click.Choice(facts["choices"]) if "choices" in facts else str if listed else type(default)
    return click.option(flag, name, type=kind, multiple=listed, default=None, help=text)


@click.command("lora")
@_options(LoraSettings)
def lora(**options: Any) -> None:
    """Train a LoRA on a dataset that ltx2 dataset encoded, and save it in the official layout.

    Options on the command line replace those of the file. The folder --output-dir gets lora.safetensors, for
    ltx2 generate --lora and for ComfyUI, earlier LoRAs in checkpoints/, previews, and log.jsonl. The same
    command resumes a run that was stopped, and ends with the same weights as if it had not been.
    """
    from ..trainer.lora_run import train_lora

    _run(LoraSettings, options, train_lora)


@click.command("full")
@_options(FullSettings)
def full(**options: Any) -> None:
    """Train the transformer itself on a dataset that ltx2 dataset encoded.

    The folder --output-dir gets model.safetensors, the file that held the transformer with the trained
    weights, and all else that was in it: use it in its place. On several GPUs: torchrun --nproc-per-node 4
    -m ltx2_core.cli.main train full --config run.toml. The same command resumes a run that was stopped.
    """
    from ..trainer.full_run import train_full

    _run(FullSettings, options, train_full)


def _run(kind: type[TrainSettings], options: dict[str, Any], train: _Train) -> None:
    from ..trainer.open_run import open_run
    from ..trainer.previews import Previews
    from ..trainer.settings_file import read_values
    from ..trainer.within_memory import settings_within

    config, check, quiet = (options.pop(name) for name in ("config", "check", "quiet"))
    written = {name: value for name, value in options.items() if value not in (None, ())}
    settings, chosen = settings_within(read_values(config, written, kind), kind)
    opened: Opened = open_run(settings)
    previews = Previews(opened) if opened.settings.preview_prompts else None
    for note in (*chosen, *opened.notes):
        click.echo(note, err=True)
    if check:
        return

    def show(step: int, steps: int, values: dict[str, float]) -> None:
        if not quiet:
            told = "  ".join(f"{name} {value:.4g}" for name, value in values.items() if name in _SHOWN)
            click.echo(f"step {step}/{steps}  {told}", err=True)

    def alarm(text: str) -> None:
        click.echo(f"ALARM {text}", err=True)

    try:
        path = train(opened, on_step=show, on_save=previews, on_alarm=alarm)
    except FloatingPointError as error:
        raise click.ClickException(str(error)) from error
    click.echo(path)


_SHOWN = (
    *("loss", "video_loss", "video_sigma", "audio_loss", "audio_sigma", "learning_rate", "grad_norm"),
    *("validation_loss", "validation_audio_loss"),
)
"""What is printed of a step; the log has all figures."""
