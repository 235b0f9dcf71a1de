"""The command ``ltx2 plan``: predicts the memory that a clip needs, without loading weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..run.options import by_name
from .options import Chosen, command

if TYPE_CHECKING:
    import torch

    from ..memory import MemoryPlan, ModelSize
    from ..shapes import ClipPlan

    Planner = Callable[[int], MemoryPlan]


@command("plan")
def plan(chosen: Chosen) -> None:
    """Show what a clip needs in memory, stage by stage, and how it would run within a budget."""
    from ..memory import size_text

    chosen.check()
    if chosen["picture"] is not None:
        # Before the plans are computed, so that a wrong path costs no time.
        _check_plot(chosen["picture"])
    if chosen["choose"] is not None:
        _choose(chosen)
        return
    _check_used(chosen)
    clips = _clips(chosen)
    if chosen["train"]:
        _plan_training(chosen, clips[-1])
        return
    planner = _of_files(chosen, clips) if chosen["checkpoints"] else _of_released(chosen, clips)
    plans = [planner(budget) for budget in _budgets(chosen["budgets"])]
    clip = clips[-1]
    click.echo(f"{clip.width}x{clip.height}, {clip.frames} frames at {clip.fps:g} fps = {clip.seconds:.3f} s")
    for change in clip.changes:
        click.echo(change)
    for one in plans:
        click.echo(f"\nwithin {size_text(one.budget)}")
        for line in one.lines():
            click.echo(f"  {line}")
    click.echo(f"\n{_advice(plans)}")
    if chosen["picture"] is not None:
        _draw(plans, chosen["picture"])


_OF_CHOICE = ("choose", "for_image", "for_lora", "without_audio", "system_memory")
_WITH_CHOICE = (*_OF_CHOICE, "seconds", "budgets")


def _check_used(chosen: Chosen) -> None:
    """Raise ValueError for an option that has an effect with --choose alone."""
    for name in _OF_CHOICE:
        if name in chosen.explicit and chosen[name]:
            raise ValueError(f"{by_name(name).flag} needs --choose, which it is for")


def _choose(chosen: Chosen) -> None:
    """Print what to run within each budget, and why.

    Raises ValueError for an option that is chosen here, and if there is one budget that no clip fits.
    """
    from ..memory import parse_size, size_text
    from ..run.choice import NothingFits, choose_run
    from ..shapes import AUTO

    for name in chosen.explicit:
        if name not in _WITH_CHOICE:
            flag = by_name(name).flag
            raise ValueError(f"--choose chooses the run, so that {flag} has no effect: leave one of them out")
    seconds, text = chosen["seconds"], chosen["system_memory"]
    try:
        system = None if text is None else parse_size(text)
    except ValueError as error:
        raise ValueError(f"--system-memory: {error}") from error
    if seconds == AUTO:
        raise ValueError("--seconds auto depends on the prompt, which a plan has not: give a number")
    budgets = _budgets(chosen["budgets"])
    for budget in budgets:
        try:
            found = choose_run(
                budget,
                seconds=5.0 if seconds is None else seconds,
                quality=chosen["choose"],
                image=chosen["for_image"],
                audio=not chosen["without_audio"],
                lora=chosen["for_lora"],
                system_memory=system,
            )
        except NothingFits as error:
            # With several budgets the others may have an answer.
            if len(budgets) == 1:
                raise
            click.echo(f"{error}\n")
            continue
        click.echo(f"within {size_text(budget)}")
        for reason in found.reasons:
            click.echo(f"  {reason}")
        second = f" and {found.stage2_steps} in two stages" if found.stage2_steps else " in one stage"
        click.echo(f"  steps: {found.steps}{second}")
        click.echo(f"  {found.command}\n")


def _plan_training(chosen: Chosen, clip: ClipPlan) -> None:
    """Print the settings of a LoRA run for each budget, with the memory that they need."""
    from ..memory import released_size, size_text
    from ..training.memory_plan import choose_training

    for name in ("checkpoints", "picture"):
        if chosen[name]:
            raise ValueError("--train plans for the released models of --model and --stored alone")
    if chosen["model"].startswith("ltxv"):
        raise ValueError("--train plans for LTX-2: --model must be 2.0, 2.3 or 2.5")
    size, quantised = released_size(chosen["model"], chosen["stored"]), chosen["stored"] != "bf16"
    click.echo(
        f"LoRA on LTX-{chosen['model']} in {chosen['stored']}: clips of {clip.width}x{clip.height}, "
        f"{clip.frames} frames at {clip.fps:g} fps with audio, one in a batch"
    )
    for budget in _budgets(chosen["budgets"]):
        choice, memory, fits = choose_training(budget, size, clip, quantised=quantised)
        click.echo(f"\nwithin {size_text(budget)}" + ("" if fits else ": DOES NOT FIT, the least is"))
        click.echo(f"  {memory}")
        for line in choice.lines():
            click.echo(f"  {line}")


def _advice(plans: Sequence[MemoryPlan]) -> str:
    """Say in one line whether the clip fits the budgets of ``plans``, and what to write to run it so."""
    from ..memory import size_text

    fitting = sorted((plan for plan in plans if plan.fits), key=lambda plan: plan.budget)
    if not fitting:
        return f"The clip {max(plans, key=lambda plan: plan.budget).shortage}"
    least, budget = fitting[0], size_text(fitting[0].budget)
    of_these = " and more" if len(plans) > 1 else ""
    if not any(stage.host for stage in least.stages):
        return f"The clip fits {budget}{of_these}: run ltx2 generate without --max-memory"
    written = budget.replace(" ", "")
    line = f"The clip fits {budget}{of_these}: run ltx2 generate with --max-memory {written}, which offloads"
    whole = next((plan for plan in fitting if not plan.streamed), None)
    if whole is None or whole is least:
        return line
    return f"{line}; from {size_text(whole.budget)} on no block is copied, which is faster"


def _clips(chosen: Chosen) -> list[ClipPlan]:
    """Plan the size and length of each sampling stage.

    Options that the user left out have the values of the recipe of --model, and with --checkpoint too: all
    recipes have the same size and length. Raises ValueError for ``--seconds auto`` and for sizes and lengths
    that cannot be planned.
    """
    from ..run.recipes import recipe_for
    from ..shapes import AUTO, Snap, plan_clip

    recipe, seconds = recipe_for(chosen["model"]), chosen["seconds"]
    if seconds == AUTO:
        raise ValueError(
            "--seconds auto depends on the prompt, which a plan has not: give a number of seconds"
        )
    stages = chosen["stages"] or recipe.stages
    frames = chosen["num_frames"]
    clip = plan_clip(
        recipe.width if chosen["width"] is None else chosen["width"],
        recipe.height if chosen["height"] is None else chosen["height"],
        frames=recipe.num_frames if frames is None and seconds is None else frames,
        seconds=seconds,
        fps=recipe.fps if chosen["fps"] is None else chosen["fps"],
        snap=Snap(chosen["snap"]),
        stages=stages,
    )
    return [clip] if stages == 1 else [clip.half(), clip]


def _budgets(texts: Sequence[str]) -> list[int]:
    """Parse sizes of GPU memory, such as "24GB", to bytes.

    For empty ``texts`` return the free memory of the GPU, or if there is no GPU the common sizes from 8 to
    80 GB.
    """
    import torch

    from ..memory import PRESETS, free_memory, parse_budget

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if texts:
        return [parse_budget(text, device) for text in texts]
    free = free_memory(device)
    # A machine without a GPU plans for another machine, whose memory is unknown.
    return list(PRESETS.values()) if free is None else [free]


def _of_released(chosen: Chosen, clips: list[ClipPlan]) -> Planner:
    """Return a function that takes a budget in bytes and plans the memory of the released --model.

    The sizes of its networks are known, so that no file is read except that of --video-decoder. ``clips`` are
    the plans of size and length of each sampling stage.
    """
    from ..memory import plan_memory, plan_or_propose, released_size
    from .values import DTYPES

    size = released_size(chosen["model"], chosen["stored"])
    # The default of a GPU, for which the plan is made, and not that of this machine.
    dtype, batch = DTYPES[chosen["dtype"] or "bfloat16"], chosen["passes_per_call"]
    if chosen["video_decoder"] is not None:
        size = _with_decoder(size, chosen["video_decoder"], dtype)

    def planned(budget: int) -> MemoryPlan:
        return plan_or_propose(
            lambda tried: plan_memory(budget, size, clips=tried, dtype=dtype, batch=batch), clips
        )

    return planned


def _with_decoder(size: ModelSize, path: str, dtype: torch.dtype) -> ModelSize:
    """A copy of ``size``, the sizes of a model, with the video decoder of the file ``path``.

    ``dtype`` is the number format that the decoder is loaded in.
    """
    from ..config import video_vae_config
    from ..loading import Component
    from ..run.model_files import open_video_decoder
    from ..storage.quantized import loaded_bytes

    file = open_video_decoder(path)
    weights = loaded_bytes(file.infos(Component.VIDEO_DECODER).values(), dtype)
    return replace(size, vae=video_vae_config(file.config), decoder_weights=weights)


def _of_files(chosen: Chosen, clips: list[ClipPlan]) -> Planner:
    """Return a function that takes a budget in bytes and plans the memory of the user's model files.

    Sizes are read from the headers of the files. ``clips`` are the plans of size and length of each sampling
    stage.
    """
    from ..run.network_sizes import NetworkSizes
    from ..types import Numerics
    from .values import execution_of

    # Plans are for the GPU that the run will use, which need not be in this machine.
    execution = execution_of(chosen, device="cpu", recorded={"dtype": "bfloat16"})
    networks = NetworkSizes(
        chosen["checkpoints"],
        chosen["text_encoder"],
        execution=execution,
        numerics=Numerics.OFFICIAL,
        video_decoder=chosen["video_decoder"],
    )
    return lambda budget: networks.plan(clips, budget=budget, batch=execution.passes_per_call)


def _check_plot(path: Path) -> None:
    """Raise ValueError if ``path`` does not end in .png, and an OSError if it cannot be written."""
    from ..media import check_output

    if path.suffix.lower() != ".png":
        raise ValueError(f"--picture {path} must end in .png: the plans are drawn as a PNG")
    check_output(path)


def _draw(plans: Sequence[MemoryPlan], path: Path) -> None:
    """Draw the memory plans as a chart into a PNG file and print its path."""
    import numpy as np
    from PIL import Image

    from ..memory import draw_plans

    Image.fromarray((draw_plans(plans).numpy() * 255).round().astype(np.uint8)).save(path)
    click.echo(f"\n{path.resolve()}")
