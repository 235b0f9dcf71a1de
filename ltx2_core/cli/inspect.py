"""The command ``ltx2 inspect``: prints what a model file or folder contains, reading headers only."""

from __future__ import annotations

import json
from pathlib import Path

import click

from .options import PathType


@click.command()
@click.argument("file", type=PathType(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def inspect(file: Path, as_json: bool) -> None:
    """Show what FILE contains: components, generation, layout, number formats, sizes and metadata.

    FILE is a .safetensors file (checkpoint, split component, upscaler, LoRA, text encoder), a diffusers
    folder, a folder of split files or a text-encoder folder. Only headers are read, so this is quick for
    files of any size.
    """
    from ..loading.describe import describe
    from ..loading.file_report import as_text

    report = describe(file)
    click.echo(json.dumps(report, indent=2, default=str) if as_json else as_text(report))
