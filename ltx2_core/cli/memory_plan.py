"""The command ``ltx2 plan``: predicts the memory that a clip needs, without loading weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..run.options import by_name
from .options import Chosen, command
from .planned_run import PlannedRun, clips_of, plan_run

if TYPE_CHECKING:
    import torch

    from ..memory import MemoryPlan, ModelSize
    from ..run.network_sizes import NetworkSizes
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
    if chosen["train"]:
        _plan_training(chosen, clips_of(chosen)[-1])
        return
    run, planner = _run_of_files(chosen) if chosen["checkpoints"] else _run_of_released(chosen)
    plans = [planner(budget) for budget in _budgets(chosen["budgets"])]
    clip = run.clips[-1] if run.finished is None else run.finished
    click.echo(f"{clip.width}x{clip.height}, {clip.frames} frames at {clip.fps:g} fps = {clip.seconds:.3f} s")
    for line in (*clip.changes, *run.lines()):
        click.echo(line)
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
    if "train_text" in chosen.explicit and not chosen["train"]:
        raise ValueError("--train-text needs --train, which it is for")


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
    from ..config import text_config
    from ..memory import released_config, released_size, size_text
    from ..trainer.memory_choice import text_of_files, transformer_size
    from ..training.memory_plan import TransformerSize, choose_training
    from ..training.memory_text import text_memory

    for name in ("picture", "pipeline_kind"):
        if chosen[name]:
            raise ValueError(f"--train plans a LoRA run: leave {by_name(name).flag} out")
    size: TransformerSize
    if chosen["checkpoints"]:
        networks = _network_sizes(chosen)
        size, quantised = transformer_size(networks)
        text = text_of_files(networks, chosen["train_text"])
        what = ", ".join(Path(path).name for path in chosen["checkpoints"])
    elif chosen["model"].startswith("ltxv"):
        raise ValueError("--train plans for LTX-2: --model must be 2.0, 2.3 or 2.5")
    else:
        size, quantised = released_size(chosen["model"], chosen["stored"]), chosen["stored"] != "bf16"
        text = text_memory(text_config(released_config(chosen["model"])), chosen["train_text"])
        what = f"LTX-{chosen['model']} in {chosen['stored']}"
    if chosen["train_text"] != "none":
        what += f", and on the {chosen['train_text']} of the text"
    click.echo(
        f"LoRA on {what}: clips of {clip.width}x{clip.height}, "
        f"{clip.frames} frames at {clip.fps:g} fps with audio, one in a batch"
    )
    for budget in _budgets(chosen["budgets"]):
        choice, memory, fits = choose_training(budget, size, clip, quantised=quantised, text=text)
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


def _run_of_released(chosen: Chosen) -> tuple[PlannedRun, Planner]:
    """Return the run of the released --model, and a function that plans its memory within a budget.

    The function takes the budget in bytes. The sizes of the model's networks are known, so that no file is
    read except those of --video-decoder and --detail-lora.
    """
    from ..memory import plan_memory, plan_or_propose, released_size
    from ..run.recipes import recipe_for
    from .values import DTYPES

    size = released_size(chosen["model"], chosen["stored"])
    # The default of a GPU, for which the plan is made, and not that of this machine.
    dtype = DTYPES[chosen["dtype"] or "bfloat16"]
    run = plan_run(chosen, size.transformer, recipe_for(chosen["model"]))
    if chosen["video_decoder"] is not None:
        size = _with_decoder(size, chosen["video_decoder"], dtype)
    plan = partial(plan_memory, dtype=dtype, batch=run.batch, finished=run.finished)

    def planned(budget: int) -> MemoryPlan:
        if run.finished is not None:
            # As of files, no smaller clip is proposed where the finished one is not the last that is sampled.
            return plan(budget, size, clips=run.clips)
        return plan_or_propose(lambda tried: plan(budget, size, clips=tried), run.clips)

    return run, planned


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


def _run_of_files(chosen: Chosen) -> tuple[PlannedRun, Planner]:
    """Return the run of the user's model files, and a function that plans its memory within a budget.

    The function takes the budget in bytes. Sizes are read from the headers of the files.
    """
    from ..config import transformer_config
    from ..loading import Component
    from ..run.file_recipe import recipe_of_file

    networks = _network_sizes(chosen)
    transformer = networks.file(Component.TRANSFORMER)
    run = plan_run(chosen, transformer_config(transformer.config), recipe_of_file(transformer))
    planner = partial(networks.plan, run.clips, batch=run.batch, finished=run.finished, changed=run.changed)
    return run, lambda budget: planner(budget=budget)


def _network_sizes(chosen: Chosen) -> NetworkSizes:
    """The user's model files, of which headers alone are read."""
    from ..run.network_sizes import NetworkSizes
    from ..types import Numerics
    from .values import execution_of

    return NetworkSizes(
        chosen["checkpoints"],
        chosen["text_encoder"],
        # Plans are for the GPU that the run will use, which need not be in this machine.
        execution=execution_of(chosen, device="cpu", recorded={"dtype": "bfloat16"}),
        numerics=Numerics.OFFICIAL,
        video_decoder=chosen["video_decoder"],
    )


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
