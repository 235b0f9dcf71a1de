"""``ltx2 plan``: what a clip will need in memory, before anything is loaded or even downloaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from PIL import Image

from ..memory import (
    PRESETS,
    RELEASED,
    STORED,
    MemoryPlan,
    draw_plans,
    free_memory,
    parse_budget,
    plan_memory,
    released_size,
    size_text,
)
from ..run.components import Components
from ..shapes import ClipPlan, Snap, plan_clip
from ..types import Numerics
from .generate import DTYPES

Planner = Callable[[int], MemoryPlan]


def _path() -> click.Path:
    return click.Path(path_type=Path)


@click.command("plan")
@click.option("--width", type=int, default=768, show_default=True)
@click.option("--height", type=int, default=512, show_default=True)
@click.option("--frames", type=int, help="Length, 8k + 1 frames.  [default: 121]")
@click.option("--seconds", type=float, help="Length in seconds, in place of --frames.")
@click.option("--fps", type=float, default=24.0, show_default=True)
@click.option("--stages", type=click.IntRange(1, 2), default=2, show_default=True)
@click.option("--snap", type=click.Choice([s.value for s in Snap]), default=Snap.NEAREST.value)
@click.option(
    "--max-memory",
    "budgets",
    multiple=True,
    help="Budget such as 12GB, or auto for what the GPU has free; repeat to compare.  [default: auto where "
    "there is a GPU, else 8, 12, 16, 24, 32 and 80 GB]",
)
@click.option("--passes-per-call", type=click.IntRange(1), default=1, show_default=True)
@click.option("--checkpoint", "checkpoints", type=_path(), multiple=True, help="Model file; may be repeated.")
@click.option("--text-encoder", type=_path(), help="Folder or file of the Gemma text encoder.")
@click.option("--dtype", type=click.Choice(list(DTYPES)), default="bfloat16", show_default=True)
@click.option(
    "--model",
    type=click.Choice(RELEASED),
    default="2.3",
    show_default=True,
    help="Released model to plan for, where no --checkpoint is given.",
)
@click.option(
    "--stored",
    type=click.Choice(list(STORED)),
    default="bf16",
    show_default=True,
    help="Its blocks, as stored.",
)
@click.option("--picture", type=_path(), help="Draw the plans into this PNG.")
def plan(
    width: int,
    height: int,
    frames: int | None,
    seconds: float | None,
    fps: float,
    stages: int,
    snap: str,
    budgets: tuple[str, ...],
    passes_per_call: int,
    checkpoints: tuple[Path, ...],
    text_encoder: Path | None,
    dtype: str,
    model: Any,
    stored: Any,
    picture: Path | None,
) -> None:
    """Show what a clip needs in memory, stage by stage, and how it would be made within a budget."""
    try:
        clip = plan_clip(
            width,
            height,
            frames=121 if frames is None and seconds is None else frames,
            seconds=seconds,
            fps=fps,
            snap=Snap(snap),
            stages=stages,
        )
        clips = [clip] if stages == 1 else [clip.half(), clip]
        if checkpoints:
            planner = _of_files(checkpoints, text_encoder, clips, DTYPES[dtype], passes_per_call)
        else:
            planner = _of_released(model, stored, clips, DTYPES[dtype], passes_per_call)
        plans = [planner(budget) for budget in _budgets(budgets)]
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{clip.width}x{clip.height}, {clip.frames} frames at {clip.fps:g} fps = {clip.seconds:.3f} s")
    for change in clip.changes:
        click.echo(change)
    for made in plans:
        click.echo(f"\nwithin {size_text(made.budget)}")
        for line in made.lines():
            click.echo(f"  {line}")
    if picture is not None:
        Image.fromarray((draw_plans(plans).numpy() * 255).round().astype(np.uint8)).save(picture)
        click.echo(f"\n{picture.resolve()}")


def _budgets(given: tuple[str, ...]) -> list[int]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if given:
        return [parse_budget(text, device) for text in given]
    free = free_memory(device)
    return list(PRESETS.values()) if free is None else [free]


def _of_released(model: Any, stored: Any, clips: list[ClipPlan], dtype: torch.dtype, batch: int) -> Planner:
    size = released_size(model, stored)
    return lambda budget: plan_memory(budget, **vars(size), clips=clips, dtype=dtype, batch=batch)


def _of_files(
    files: tuple[Path, ...], text: Path | None, clips: list[ClipPlan], dtype: torch.dtype, batch: int
) -> Planner:
    networks = Components(
        files, text, device=torch.device("cpu"), dtype=dtype, numerics=Numerics.OFFICIAL, keep_loaded=False
    )
    return lambda budget: networks.plan(clips, budget=budget, batch=batch)
