"""``ltx2 inspect``: what a model file or a text-encoder folder holds, from headers alone."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import click

from ..loading import Component, open_checkpoint, open_lora

Report = dict[str, Any]


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def inspect(file: Path, as_json: bool) -> None:
    """Say what FILE holds: components, generation, number formats, sizes and metadata.

    FILE is a .safetensors file (checkpoint, split component, upscaler, LoRA, text encoder), a diffusers
    folder or a text-encoder folder. Only headers are read, so this is quick for files of any size.
    """
    try:
        report = describe_text_encoder(file) if is_text_encoder(file) else describe_file(file)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(json.dumps(report, indent=2, default=str) if as_json else as_text(report))


def describe_file(path: str | os.PathLike[str]) -> Report:
    """The content of a model file or folder as plain values. Raises ValueError, FileNotFoundError."""
    checkpoint = open_checkpoint(path)
    report: Report = {
        "file": str(checkpoint.path),
        "size": sum(file.stat().st_size for file in {i.path for i in checkpoint.tensors.values()}),
        "generation": checkpoint.generation,
        "components": [
            {
                "name": str(component),
                "tensors": len(infos := checkpoint.infos(component)),
                "parameters": sum(info.numel for info in infos.values()),
                "size": checkpoint.nbytes(component),
                "dtypes": sorted({info.dtype for info in infos.values()}),
            }
            for component in Component
            if component in checkpoint.components
        ],
        "tensors": len(checkpoint.tensors),
        "dtypes": dict(Counter(info.dtype for info in checkpoint.tensors.values())),
        "metadata": dict(checkpoint.metadata),
    }
    if Component.LORA in checkpoint.components:
        lora = open_lora(path)
        report["lora"] = {
            "layers": len(lora.layers),
            "ranks": list(lora.ranks),
            "reference_downscale_factor": lora.reference_downscale_factor,
        }
    return report


def is_text_encoder(path: Path) -> bool:
    """Whether ``path`` is a folder or file that holds a text encoder and nothing of a checkpoint."""
    if path.is_dir():
        config = path / "config.json"
        diffusers = config.is_file() and b"_class_name" in config.read_bytes()
        return not diffusers and not (path / "model_index.json").is_file()
    return path.is_file() and open_checkpoint(path).components == {Component.TEXT_ENCODER}


def describe_text_encoder(path: Path) -> Report:
    """The content of a text encoder's folder or file as plain values. Raises ValueError."""
    from ..text.folder import find_tokenizer
    from ..text.gemma import find_encoder

    config, infos, _ = find_encoder(path)
    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    dtypes = Counter(info.dtype for info in infos.values())
    report: Report = {
        "file": str(path),
        "size": sum(file.stat().st_size for file in {info.path for info in infos.values()}),
        "generation": None,
        "components": [
            {
                "name": str(Component.TEXT_ENCODER),
                "tensors": len(infos),
                "parameters": sum(info.numel for info in infos.values()),
                "size": sum(info.nbytes for info in infos.values()),
                "dtypes": sorted(dtypes),
            }
        ],
        "tensors": len(infos),
        "dtypes": dict(dtypes),
        "metadata": {key: config[key] for key in ("model_type", *keys) if key in config},
    }
    if path.is_dir():
        report["tokenizer"] = find_tokenizer(path).name
    return report


def as_text(report: Report) -> str:
    """A report as a table."""
    generation = report["generation"]
    lines = [
        report["file"],
        f"  {_size(report['size'])}, {report['tensors']} tensors ({_counts(report['dtypes'])})",
        f"  generation  {'LTX-' + generation if generation else 'not stated'}",
        "",
        f"  {'component':<18}{'tensors':>8}{'parameters':>14}{'size':>11}  dtypes",
    ]
    lines += [
        f"  {part['name']:<18}{part['tensors']:>8}{part['parameters']:>14,}{_size(part['size']):>11}"
        f"  {', '.join(part['dtypes'])}"
        for part in report["components"]
    ]
    if lora := report.get("lora"):
        ranks, factor = ", ".join(str(rank) for rank in lora["ranks"]), lora["reference_downscale_factor"]
        lines += [
            "",
            f"  {lora['layers']} layers of rank {ranks}, reference downscale factor {factor}",
        ]
    if report["metadata"]:
        lines += ["", "  metadata"]
        lines += [f"    {key}: {_short(value)}" for key, value in report["metadata"].items()]
    return "\n".join(lines)


def _size(nbytes: int) -> str:
    size = float(nbytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {dtype}" for dtype, count in sorted(counts.items())) or "none"


def _short(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(value) + "}"
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."
