"""The run whose memory ``ltx2 plan`` predicts: the size and length of its stages, from the options alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .options import Chosen

if TYPE_CHECKING:
    from ..config import TransformerConfig
    from ..run.recipes import Recipe
    from ..run.stages import Stage
    from ..shapes import ClipPlan


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """The run whose memory is planned.

    ``clips`` are the size and length that each stage samples, ``finished`` those of the clip that is decoded;
    None is the last of ``clips``. ``batch`` is how many guidance passes one forward pass evaluates.
    ``stages`` are those of the DFR pipeline, empty for other runs. ``changed`` says that a LoRA changes the
    transformer.
    """

    clips: Sequence[ClipPlan]
    batch: int
    finished: ClipPlan | None = None
    stages: Sequence[Stage] = ()
    changed: bool = False

    def lines(self) -> Iterator[str]:
        """Yield the lines on the stages of a DFR run, as ``ltx2 generate --dry-run`` prints them."""
        from .plan import dfr_line, stage_lines

        if self.stages:
            yield dfr_line(self.stages)
        for index, stage in enumerate(self.stages, start=1):
            yield from stage_lines(index, stage)


def plan_run(chosen: Chosen, transformer: TransformerConfig, recipe: Recipe) -> PlannedRun:
    """Plan the stages of the run that the options describe, for a model with this ``transformer``.

    ``recipe`` has its default settings. Raises ValueError for what cannot be sampled.
    """
    if chosen["pipeline_kind"] is None:
        return PlannedRun(clips=clips_of(chosen), batch=chosen["passes_per_call"])
    stages = _dfr_stages(chosen, transformer, recipe)
    return PlannedRun(
        clips=[stage.sampled for stage in stages],
        batch=1,
        finished=stages[-1].finished,
        stages=stages,
        changed=chosen["detail_lora"] is not None,
    )


_OF_REQUEST = ("width", "height", "num_frames", "seconds", "fps", "snap", "pipeline_kind", "temporal_rounds")


def _dfr_stages(chosen: Chosen, transformer: TransformerConfig, recipe: Recipe) -> tuple[Stage, ...]:
    """Plan the stages of the DFR pipeline, as :func:`plan_run` does those of every run."""
    from ..run.dfr_plan import DfrFiles, detail_scale, plan_dfr
    from ..run.input_check import check_run_size, check_stages
    from ..run.request import Request
    from ..shapes import AUTO
    from ..types import Numerics
    from .values import loras_of

    if chosen["seconds"] == AUTO:
        raise ValueError(_NO_PROMPT)
    named = {name: chosen[name] for name in _OF_REQUEST if chosen[name] is not None}
    request = Request(prompt="", **named)
    (lora,) = loras_of(chosen, "detail_lora") or (None,)
    detail = detail_scale(DfrFiles(detail_lora=lora).opened().detail_lora)
    stages = plan_dfr(request, Numerics.OFFICIAL, recipe, detail=detail)
    for stage in stages:
        check_run_size(stage.sampled)
    try:
        check_stages(request, stages, transformer)
    except ValueError as error:
        lacks = not chosen["checkpoints"] and not transformer.keyframe_embedding
        of_model = ", such as the released one of --model 2.5" if lacks else ""
        raise ValueError(f"{error}{of_model}") from None
    return stages


_NO_PROMPT = "--seconds auto depends on the prompt, which a plan has not: give a number of seconds"


def clips_of(chosen: Chosen) -> list[ClipPlan]:
    """Plan the size and length of each sampling stage.

    Options that the user left out have the values of the recipe of --model, and with --checkpoint too: all
    recipes have the same size and length. Raises ValueError for ``--seconds auto`` and for sizes and lengths
    that cannot be planned.
    """
    from ..run.recipes import recipe_for
    from ..shapes import AUTO, Snap, plan_clip

    recipe, seconds = recipe_for(chosen["model"]), chosen["seconds"]
    if seconds == AUTO:
        raise ValueError(_NO_PROMPT)
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
