"""A node that reports what a clip needs in memory before anything runs."""

from __future__ import annotations

from dataclasses import replace

import torch
from comfy_api.latest import io, ui

from ...ltx2_core.memory import (
    PRESETS,
    RELEASED,
    STORED,
    MemoryPlan,
    ModelSize,
    Released,
    Stored,
    draw_plans,
    plan_memory,
    plan_or_propose,
    released_size,
)
from ...ltx2_core.shapes import ClipPlan, Snap, plan_clip
from ...ltx2_core.types import Numerics
from ..host.free_memory import free_budget
from ..host.values import Model
from ..inputs import frames_input, plan_input, size_input, stages_input

MEASURED, ALL = "what is free now", "all sizes"


class LTX2AVMemoryPlan(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVMemoryPlan",
            is_output_node=True,
            display_name="LTX-2 Memory Plan",
            search_aliases=[
                "low vram",
                "vram",
                "memory",
                "out of memory",
                "oom",
                "fits",
                "offload",
                "how much vram",
            ],
            category="LTX-2/utils",
            description="Reports how much memory a clip of this size needs in each stage, and how much of "
            "the model can stay on the GPU. Loads nothing.",
            inputs=[
                size_input("width", 768, "In pixels"),
                size_input("height", 512, "In pixels"),
                frames_input(121, "Longer clips need more memory while they are sampled."),
                stages_input(),
                io.Combo.Input(
                    "budget",
                    options=[MEASURED, *PRESETS, ALL],
                    default=MEASURED,
                    tooltip="Memory of the GPU that the run may use; all sizes compares common GPUs.",
                ),
                io.Combo.Input(
                    "model_version",
                    options=list(RELEASED),
                    default="2.3",
                    tooltip="Released model to plan for. A connected model overrides its transformer.",
                ),
                io.Combo.Input(
                    "weights",
                    options=list(STORED),
                    default="bf16",
                    tooltip="How the blocks of the transformer are stored; fp8 takes half of the memory.",
                ),
                io.Model.Input("model", optional=True, tooltip="Plan for this model as it is loaded."),
                plan_input("Takes size and length from an LTX-2 Clip Plan."),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="The plan as a table."),
                io.Image.Output(
                    display_name="picture", tooltip="The plan as bars; a red line is the budget."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        width: int,
        height: int,
        frames: int,
        stages: str,
        budget: str,
        model_version: Released,
        weights: Stored,
        model: Model | None = None,
        plan: ClipPlan | None = None,
    ) -> io.NodeOutput:
        if plan is None:
            plan = plan_clip(
                width,
                height,
                frames=frames,
                snap=Snap.NEAREST,
                stages=int(stages),
                numerics=Numerics.COMFY,
            )
        size = released_size(model_version, weights)
        size, dtype = (size, torch.bfloat16) if model is None else _of_model(size, model)
        # Both stages are planned, since the second one has four times the tokens and decides the memory.
        clips = [plan] if stages == "1" else [plan.half(), plan]

        def planned(room: int) -> MemoryPlan:
            return plan_or_propose(lambda tried: plan_memory(room, size, clips=tried, dtype=dtype), clips)

        plans = [planned(room) for room in _budgets(budget)]
        tables = ["\n".join((f"within {one.budget / 1e9:.3g} GB", *one.lines())) for one in plans]
        report = "\n\n".join((f"{plan.width} x {plan.height}, {plan.frames} frames", *tables, *plan.changes))
        picture = draw_plans(plans)[None]
        shown = ui.PreviewText(report).as_dict() | ui.PreviewImage(picture, cls=cls).as_dict()
        return io.NodeOutput(report, picture, ui=shown)


def _budgets(budget: str) -> list[int]:
    if budget == ALL:
        return list(PRESETS.values())
    if budget in PRESETS:
        return [PRESETS[budget]]
    return [free_budget()]


def _of_model(size: ModelSize, model: Model) -> tuple[ModelSize, torch.dtype]:
    """Return ``size`` with the entries of the transformer taken from a loaded MODEL, and its computing dtype.

    The entries of all other networks are those of ``size``, which describes a released model. Raises
    ValueError for a MODEL that this pack's loaders did not make.
    """
    network = model.model.diffusion_model
    config = getattr(network, "config", None)
    # A network of the host has no configuration of this type.
    if type(config) is not type(size.transformer):
        raise ValueError("the model is not LTX-2 or not from this pack's loaders: use LTX-2 Load Checkpoint")
    blocks = network.transformer_blocks
    # Stored bytes, which quantised layers have fewer of than their shapes say.
    own = sum(t.numel() * t.element_size() for block in blocks for t in block.state_dict().values())
    whole = sum(t.numel() * t.element_size() for t in network.state_dict().values())
    changed = replace(
        size, transformer=config, transformer_weights=whole, block_weights=own // max(1, len(blocks))
    )
    return changed, model.model.get_dtype_inference()
