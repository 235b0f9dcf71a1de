"""The command ``ltx2 shots``: checks a shot list, or makes one of a timeline or prompt of another tool."""

from __future__ import annotations

import json
from pathlib import Path

import click

from .options import PathType


@click.command()
@click.argument("file", type=PathType(path_type=Path))
@click.option("-o", "--output", type=PathType(path_type=Path), help="File to write; - or none is stdout.")
def shots(file: Path, output: Path | None) -> None:
    """Check the shot list FILE, or convert FILE to a shot list for --shots of generate and long.

    FILE is a shot list (ltx2.shots/1), the saved timeline of LTX Director or the text of its widget, or a
    prompt with parts such as [0%:50%] as Wan2GP has them. What has no counterpart is named on stderr. No
    model is read.
    """
    from ..media.atomic import check_output, replacing
    from ..run.shots.format import shots_text
    from ..run.shots.importing import imported

    text = shots_text(file)
    try:
        values, notes = imported(text)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    for note in notes:
        click.echo(f"left out: {note}", err=True)
    made = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    if output is None or str(output) == "-":
        click.echo(made, nl=False)
        return
    check_output(output)
    with replacing(output) as temporary:
        temporary.write_text(made, encoding="utf-8")
    click.echo(output.resolve())
