"""The command ``ltx2 prompt``: builds a prompt from named parts, and lists the words for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from ..run.prompt_parts import build_prompt, fields, shot_of, tables, with_sound_of
from .options import PathType


def _field_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give ``command`` an option for each field of a prompt, in the order of the table."""
    for name, field in reversed([*fields().items()]):
        command = click.option(f"--{name}", default="", metavar="TEXT", help=field["help"])(command)
    return command


@click.command()
@_field_options
@click.option(
    "--text", default="", metavar="TEXT", help="What is seen, in one text; what is heard follows it."
)
@click.option("--sentences", is_flag=True, help="Write camera, subject with action, and look as sentences.")
@click.option("--words", is_flag=True, help="List camera moves, sound words, sizes and strengths of LoRAs.")
@click.option("--enhance", is_flag=True, help="Have a language model rewrite the prompt to a full caption.")
@click.option(
    "--enhancer",
    type=PathType(path_type=Path),
    metavar="PATH",
    help="For --enhance: folder or file of an instruction-tuned Gemma, such as the text encoder of LTX-2.3.",
)
@click.option("--from-image", is_flag=True, help="For --enhance: the clip begins with an image.")
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), help="For --enhance: seed of the words. Default 42."
)
@click.option(
    "-o",
    "--output",
    type=PathType(path_type=Path),
    metavar="FILE",
    help="Write the prompt to this text file, too.",
)
def prompt(
    text: str,
    sentences: bool,
    words: bool,
    enhance: bool,
    enhancer: Path | None,
    from_image: bool,
    seed: int | None,
    output: Path | None,
    **parts: str,
) -> None:
    """Build a prompt from its parts and print it.

    Audio comes first, then what is seen, then the scene; parts that are left out are left out of the prompt.
    With --sentences it is in the order camera, subject and action, look, and then the rest. With --text what
    is heard follows the text. --enhance prints what a language model makes of the prompt; if that has a
    fault, the prompt itself, with the reason on stderr.
    """
    if words:
        for title, table in tables().items():
            if title != "fields":
                click.echo("\n".join((title, *(f"  {line}" for line in _lines(table)))))
        return
    for flag, given in (("--enhancer", enhancer), ("--from-image", from_image), ("--seed", seed is not None)):
        if given and not enhance:
            raise ValueError(f"{flag} has no effect without --enhance")
    if enhance and enhancer is None:
        raise ValueError("--enhance needs --enhancer: the folder or file of an instruction-tuned Gemma")
    if output is not None:
        from ..media import check_output

        # Before the language model is loaded.
        check_output(output)
    made = _built(parts, text, sentences=sentences)
    if enhancer is not None:
        made = _enhanced(made, enhancer, from_image=from_image, seed=seed)
    click.echo(made)
    if output is not None:
        output.write_text(f"{made}\n", encoding="utf-8")


def _built(parts: Mapping[str, str], text: str, *, sentences: bool) -> str:
    """The prompt of the fields ``parts``, or of ``text`` with what is heard.

    Raises ValueError if all are empty, and for fields and ``sentences``, which have no place beside a text.
    """
    if text.strip():
        if sentences:
            raise ValueError("--sentences has no effect with --text: leave one of them out")
        for name, field in fields().items():
            if parts[name].strip() and field["part"] != "audio":
                raise ValueError(f"--text is all that is seen: leave --{name} out, or say it in the text")
        return with_sound_of(parts, text)
    if not any(map(str.strip, parts.values())):
        flags = ", ".join(f"--{name}" for name in fields())
        raise ValueError(f"all parts of the prompt are empty: write at least one of {flags}, or --text")
    if not sentences:
        return build_prompt(parts)
    return shot_of(parts)


def _enhanced(prompt: str, enhancer: Path, *, from_image: bool, seed: int | None) -> str:
    from ..run.enhancer import enhance_alone
    from ..text.enhance import SEED
    from .values import naming

    with naming("--enhancer"):
        made = enhance_alone(enhancer, prompt, from_image=from_image, seed=SEED if seed is None else seed)
    return made.prompt


def _lines(table: object) -> list[str]:
    if isinstance(table, dict):
        return [f"{name}: {', '.join(v) if isinstance(v, list) else v}" for name, v in table.items()]
    return [str(value) for value in table] if isinstance(table, list) else [str(table)]
