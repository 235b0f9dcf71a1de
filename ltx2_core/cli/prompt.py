"""The command ``ltx2 prompt``: builds a prompt from named parts, and lists the words for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from ..run.prompt_parts import build_prompt, fields, shot, tables


def _field_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give ``command`` an option for each field of a prompt, in the order of the table."""
    for name, field in reversed([*fields().items()]):
        command = click.option(f"--{name}", default="", metavar="TEXT", help=field["help"])(command)
    return command


@click.command()
@_field_options
@click.option("--sentences", is_flag=True, help="Write camera, subject with action, and look as sentences.")
@click.option("--words", is_flag=True, help="List camera moves, sound words, sizes and strengths of LoRAs.")
def prompt(sentences: bool, words: bool, **parts: str) -> None:
    """Build a prompt from its parts and print it.

    Audio comes first, then what is seen, then the scene; parts that are left out are left out of the prompt.
    With --sentences it is in the order camera, subject and action, look, and then the rest.
    """
    if words:
        for title, table in tables().items():
            if title != "fields":
                click.echo("\n".join((title, *(f"  {line}" for line in _lines(table)))))
        return
    if not any(map(str.strip, parts.values())):
        flags = ", ".join(f"--{name}" for name in fields())
        raise ValueError(f"all parts of the prompt are empty: write at least one of {flags}")
    if not sentences:
        click.echo(build_prompt(parts))
        return
    seen = " ".join(filter(None, (parts["subject"].strip(), parts["action"].strip())))
    look = ", ".join(filter(None, (parts[name].strip() for name in _LOOK)))
    heard = [parts[name] for name, field in fields().items() if field["part"] == "audio"]
    click.echo(shot(parts["camera"], seen, parts["setting"], look, *heard))


_LOOK = ("style", "lighting", "atmosphere")


def _lines(table: object) -> list[str]:
    if isinstance(table, dict):
        return [f"{name}: {', '.join(v) if isinstance(v, list) else v}" for name, v in table.items()]
    return [str(value) for value in table] if isinstance(table, list) else [str(table)]
