"""The command ``ltx2 convert``: writes a model in another file layout or number format."""

from __future__ import annotations

from pathlib import Path

import click

from .options import PathType


@click.command()
@click.argument("sources", nargs=-1, required=True, type=PathType(path_type=Path, exists=True))
@click.argument("destination", type=PathType(path_type=Path))
@click.option("--fp8", is_flag=True, help="Store the large layers of the transformer as scaled fp8.")
@click.option(
    "--to",
    "layout",
    type=click.Choice(["diffusers"]),
    help="Write a diffusers pipeline: DESTINATION is a new folder.",
)
@click.option(
    "--text-encoder",
    type=PathType(path_type=Path, exists=True),
    help="With --to diffusers: folder of the Gemma to copy into it.",
)
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
def convert(
    sources: tuple[Path, ...],
    destination: Path,
    *,
    fp8: bool,
    layout: str | None,
    text_encoder: Path | None,
    overwrite: bool,
) -> None:
    """Write the models in SOURCES, model files or diffusers folders, to DESTINATION in another layout.

    A DESTINATION that ends in .safetensors becomes one file with everything that SOURCES contain; any other
    becomes a folder with one file for each component. A component is taken from the first source that has
    it. --to diffusers makes a diffusers pipeline: a folder for each model, with the names of diffusers.
    With --fp8 the audio layers, and other layers in which rounding does harm, are not converted. Each file is
    written under a temporary name, read back and compared, and then renamed.
    """
    from ..loading import Component, open_checkpoint
    from ..loading import convert as core
    from ..loading.file_set import check_sources
    from ..media.atomic import check_output, replacing

    opened = [open_checkpoint(source) for source in sources]
    check_sources(opened, both_decoders=layout == "diffusers")
    if layout == "diffusers":
        if fp8 or overwrite:
            raise ValueError(
                "--to diffusers writes a new folder of plain weights: leave --fp8 and --overwrite out"
            )
        from ..loading.save_diffusers import save_diffusers

        for name, held in save_diffusers(destination, opened, text_encoder).items():
            click.echo(f"{destination / name}  {', '.join(map(str, held))}")
        return
    if text_encoder is not None:
        raise ValueError("--text-encoder has no effect without --to diffusers: add it")
    if destination.suffix == ".safetensors":
        files = {destination: core.single_parts(opened)}
    else:
        destination.mkdir(parents=True, exist_ok=True)
        split = core.split_parts(opened)
        files = {destination / f"{name}.safetensors": parts for name, parts in split.items()}
    if fp8 and not any(Component.TRANSFORMER in parts for parts in files.values()):
        raise ValueError("--fp8 converts the transformer, which none of the sources contains")
    # All are checked before the first is written, which takes minutes.
    for path in files:
        check_output(path, overwrite=overwrite)
    for path, parts in files.items():
        with replacing(path) as temporary:
            layers = core.convert(temporary, opened, parts, fp8=fp8)
        size, in_fp8 = path.stat().st_size / 1e9, f", {layers} layers in fp8" if layers else ""
        click.echo(f"{path}  {size:.3g} GB, {', '.join(map(str, parts))}{in_fp8}")
