"""The commands ``ltx2 lora``: merge, extract, resize, inspect and compare LoRA files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import PathType

if TYPE_CHECKING:
    import torch

    from ..loading import Lora
    from ..loading.lora_tools.combine import RankChoice
    from ..loading.lora_tools.figures import Likeness, LoraFigures

_FILE = PathType(path_type=Path, exists=True)
_Command = Callable[..., None]


@click.group()
def lora() -> None:
    """Merge, extract, resize, look into and compare LoRA files.

    All write the official layout with the scale multiplied into the matrices, which ComfyUI, diffusers and
    this package read. Files of other trainers (kohya, musubi, PEFT, diffusers; LoKr and LoHa too) are read.
    """


def _written(function: _Command) -> _Command:
    """Add the options of commands that write a LoRA."""
    for option in (
        click.option("--overwrite", is_flag=True, help="Replace a file that exists."),
        click.option(
            "--precision",
            type=click.Choice(["bf16", "float32"]),
            default="bf16",
            show_default=True,
            help="Number format of the written matrices.",
        ),
        click.option(
            "--energy",
            type=float,
            help="Each layer gets the lowest rank that holds this share of its squared change, such as 0.99; "
            "--rank is then the highest.",
        ),
        click.option("--rank", type=int, help="Rank of the layers."),
        click.option("-o", "--output", required=True, type=PathType(path_type=Path), help="File to write."),
    ):
        function = option(function)
    return function


@lora.command()
@click.argument("loras", nargs=-1, required=True, metavar="FILE[:STRENGTH[:AUDIO]]...")
@_written
@click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    type=_FILE,
    help="Merge into this model, and write the model. May be repeated; the first with a component counts.",
)
def merge(loras: tuple[str, ...], checkpoints: tuple[Path, ...], **written: Any) -> None:
    """Merge LoRAs with each other, or with --checkpoint into a model.

    Without --rank and --energy LoRAs are merged exactly; the rank is then the sum of theirs. In a model each
    weight is computed in float32 and rounded once, to the number format that it had; fp8, int8 and NVFP4
    layers get new scales.
    """
    from ..loading import open_checkpoint
    from ..loading.lora_tools.combine import merge_loras
    from ..loading.lora_tools.into_base import merge_into_model

    opened = [_open(text) for text in loras]
    output = _output(written, inputs=[*(one.path for one in opened), *checkpoints])
    choice = _choice(written)
    if not checkpoints:
        told = merge_loras(output, opened, choice, dtype=_dtype(written))
        click.echo(f"{output}  {told}")
        return
    if choice.changes:
        raise ValueError("--rank and --energy are of a written LoRA: leave them out with --checkpoint")
    for report in merge_into_model(output, [open_checkpoint(path) for path in checkpoints], opened):
        click.echo(str(report), err=True)
    click.echo(f"{output}  {output.stat().st_size / 1e9:.3g} GB")


@lora.command()
@click.argument("tuned", type=_FILE)
@click.argument("base", type=_FILE)
@_written
@click.option(
    "--targets", default="", help="Regular expression: only layers in whose name it occurs [default: all]."
)
def extract(tuned: Path, base: Path, targets: str, **written: Any) -> None:
    """Write the LoRA that turns the model BASE into TUNED, by singular value decomposition.

    Without --energy the rank is 32. Norms, tables and biases that differ are counted, as no LoRA changes
    them.
    """
    from ..loading import open_checkpoint
    from ..loading.lora_tools.combine import RankChoice
    from ..loading.lora_tools.extract import extract_lora

    output = _output(written, inputs=[tuned, base])
    choice = _choice(written)
    found = extract_lora(
        output,
        [open_checkpoint(tuned)],
        [open_checkpoint(base)],
        choice if choice.changes else RankChoice(rank=32),
        dtype=_dtype(written),
        targets=targets,
        on_layer=_progress,
    )
    click.echo(f"{output}  {found.written}")
    if found.unlike:
        click.echo(f"{len(found.unlike)} tensors differ that are no matrices, such as {found.unlike[0]}")


@lora.command()
@click.argument("file", type=_FILE)
@_written
def resize(file: Path, **written: Any) -> None:
    """Change the rank of a LoRA.

    A lower --rank preserves the largest singular values. A higher one adds pairs without effect, from which
    ltx2 train lora --init-lora can continue.
    """
    from ..loading import open_lora
    from ..loading.lora_tools.combine import merge_loras

    choice = _choice(written)
    if not choice.changes:
        raise ValueError("name the new rank with --rank, or the share to preserve with --energy")
    opened = open_lora(file)
    output = _output(written, inputs=[opened.path])
    click.echo(f"{output}  {merge_loras(output, [opened], choice, dtype=_dtype(written))}")


@lora.command()
@click.argument("file", type=_FILE)
@click.option("--layers", is_flag=True, help="Show each layer too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with all layers and the metadata.")
def inspect(file: Path, layers: bool, as_json: bool) -> None:
    """Show the norms of a LoRA by stream, and how many singular values hold its change."""
    from ..loading import open_lora
    from ..loading.lora_tools.figures import lora_figures

    figures = lora_figures(open_lora(file))
    if as_json:
        click.echo(json.dumps(asdict(figures), indent=2, default=str))
        return
    for line in _figures_text(figures, layers=layers):
        click.echo(line)


@lora.command()
@click.argument("first", type=_FILE)
@click.argument("second", type=_FILE)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare(first: Path, second: Path, as_json: bool) -> None:
    """Show how alike two LoRAs are, by stream: norms, direction, and layers that only one has."""
    from ..loading import open_lora
    from ..loading.lora_tools.figures import compare_loras

    found = compare_loras(open_lora(first), open_lora(second))
    if as_json:
        click.echo(json.dumps({stream: asdict(one) for stream, one in found.items()}, indent=2))
        return
    click.echo(f"{'stream':8}{'layers':>8}{'only 1':>8}{'only 2':>8}{'norm 1':>11}{'norm 2':>11}"
               f"{'cosine':>9}{'difference':>12}")  # fmt: skip
    for stream, one in found.items():
        click.echo(_likeness_text(stream, one))


def _likeness_text(stream: str, one: Likeness) -> str:
    return (
        f"{stream:8}{one.both:8}{one.first_only:8}{one.second_only:8}{one.norms[0]:11.4g}"
        f"{one.norms[1]:11.4g}{one.cosine:9.4f}{one.difference:12.4g}"
    )


def _figures_text(figures: LoraFigures, *, layers: bool) -> list[str]:
    ranks = ", ".join(map(str, figures.ranks)) or "none"
    lines = [f"{figures.file}: {', '.join(figures.kinds)}, rank {ranks}, {len(figures.layers)} layers"]
    lines += [figures.note] if figures.note else []
    counts = next(iter(figures.streams.values())).shares
    lines.append(f"{'stream':8}{'layers':>8}{'norm':>11}" + "".join(f"{f'top {n}':>9}" for n in counts))
    for stream, one in figures.streams.items():
        shares = "".join(f"{share:9.1%}" for share in one.shares.values())
        untrained = f"  {one.untrained} without a change" if one.untrained else ""
        lines.append(f"{stream:8}{one.layers:8}{one.norm:11.4g}{shares}{untrained}")
    lines.append("top N: share of the squared change that the N largest singular values of each layer hold")
    if layers:
        lines.append(f"{'norm':>11}{'rank':>6}{'90 %':>6}{'99 %':>6}  layer")
        lines += [
            f"{one.norm:11.4g}{one.rank:6}{one.rank_90:6}{one.rank_99:6}  {one.module}"
            for one in figures.layers
        ]
    return lines


def _open(text: str) -> Lora:
    from ..loading import open_lora
    from .values import parse_lora

    spec = parse_lora(text)
    if not isinstance(spec.strength, (int, float)):
        raise ValueError(f"{text}: write the strength as a number here")
    return open_lora(spec.path, spec.strength, audio_strength=spec.audio_strength)


def _output(written: Mapping[str, Any], inputs: list[Path]) -> Path:
    """The checked output file; raises an error before anything is read."""
    from ..media.atomic import check_output

    path: Path = written["output"]
    if path.suffix != ".safetensors":
        raise ValueError(f"--output {path} must end in .safetensors")
    check_output(path, overwrite=written["overwrite"])
    if path.exists() and any(path.samefile(one) for one in inputs):
        raise ValueError(f"--output {path} is one of the files that are read: choose another name")
    return path


def _choice(written: Mapping[str, Any]) -> RankChoice:
    from ..loading.lora_tools.combine import RankChoice

    return RankChoice(rank=written["rank"], energy=written["energy"])


def _dtype(written: Mapping[str, Any]) -> torch.dtype:
    import torch

    return torch.float32 if written["precision"] == "float32" else torch.bfloat16


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        click.echo(f"\rlayer {done + 1}/{total} ", nl=done + 1 == total, err=True)
