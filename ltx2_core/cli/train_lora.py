"""The command ``ltx2 train lora``: trains a LoRA from an encoded dataset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from ..trainer.settings import LoraSettings
from .options import PathType


def _options(function: Callable[..., None]) -> Callable[..., None]:
    """Add an option for each setting; an option that is not written has no value."""
    for one in reversed(fields(LoraSettings)):
        function = _option(one.name, one.default, one.metadata)(function)
    return function


def _option(name: str, default: Any, facts: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
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
@click.option(
    "--config",
    type=PathType(path_type=Path),
    help="File of settings, toml or json; its keys are the names of the options below, with _ for -.",
)
@_options
@click.option("--check", is_flag=True, help="Check settings and dataset, train nothing.")
@click.option("-q", "--quiet", is_flag=True, help="Print no progress.")
def lora(config: Path | None, check: bool, quiet: bool, **options: Any) -> None:
    """Train a LoRA on a dataset that ltx2 dataset encoded, and save it in the official layout.

    Options on the command line replace those of the file. The folder --output-dir gets lora.safetensors, for
    ltx2 generate --lora and for ComfyUI, earlier LoRAs in checkpoints/, previews, and log.jsonl. The same
    command resumes a run that was stopped, and ends with the same weights as if it had not been.
    """
    from ..trainer.lora_run import train_lora
    from ..trainer.open_run import open_run
    from ..trainer.previews import Previews
    from ..trainer.settings import read_settings

    written = {name: value for name, value in options.items() if value not in (None, ())}
    settings = read_settings(config, written)
    opened = open_run(settings)
    previews = Previews(opened) if settings.preview_prompts else None
    for note in opened.notes:
        click.echo(note, err=True)
    if check:
        return

    def show(step: int, steps: int, values: dict[str, float]) -> None:
        if not quiet:
            told = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
            click.echo(f"step {step}/{steps}  {told}", err=True)

    try:
        path = train_lora(opened, on_step=show, on_save=previews)
    except FloatingPointError as error:
        raise click.ClickException(str(error)) from error
    click.echo(path)
