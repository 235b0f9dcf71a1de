"""The command ``ltx2 make-tiny``: writes a complete model set of a few megabytes with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import click

from .options import PathType


@click.command("make-tiny")
@click.argument("folder", metavar="DIR", type=PathType(path_type=Path))
@click.option(
    "--generation",
    type=click.Choice(["2.0", "2.3", "2.5", "ltxv-2b"]),
    default="2.3",
    show_default=True,
    help="LTX-2 generation whose architecture and file layout the set has, or ltxv-2b for LTX-Video. That of "
    "2.5 also has a duration head, and a diffusion video VAE for --video-decoder.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    help="The same seed gives the same weights.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16"]),
    default="bfloat16",
    show_default=True,
    help="Number format of the weights.",
)
def make_tiny(folder: Path, generation: str, seed: int, dtype: str) -> None:
    """Write a tiny random model set below DIR, in the folders that ComfyUI uses.

    Checkpoint, text encoder, latent upscaler and LoRA, for 2.5 a duration head and a temporal upscaler too,
    have the layout of the released files, so that every program that reads those can be tried with them; what
    they generate is noise.
    """
    import torch

    from ..loading import open_checkpoint
    from ..tiny.diffusion_vae import write_diffusion_vae
    from ..tiny.write import write_tiny_set

    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    files = write_tiny_set(folder, generation=cast(Any, generation), seed=seed, dtype=dtypes[dtype])
    decoder = None
    if generation == "2.5":
        decoder = files.video_vae
        write_diffusion_vae(decoder, open_checkpoint(files.checkpoint), seed=seed, dtype=dtypes[dtype])
    paths = (files.checkpoint, files.text_encoder, files.upsampler, files.temporal_upsampler, files.lora)
    for path in filter(None, (*paths, files.duration_head, decoder)):
        click.echo(path)
