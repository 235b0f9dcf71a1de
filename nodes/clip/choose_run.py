"""A node that chooses model, size, length and steps for a GPU, by the memory plans of what could be run."""

from __future__ import annotations

from typing import cast

from comfy_api.latest import io, ui

from ...ltx2_core.memory import PRESETS, RELEASED, Released
from ...ltx2_core.run.choice import QUALITIES, Quality, choose_run
from ...ltx2_core.shapes import plan_clip
from ...ltx2_core.types import Numerics
from ..host.free_memory import free_budget
from ..inputs import MAX_SECONDS, Plan
from ..numbers import real_input
from .memory_plan import MEASURED

NONE = "none"
MAX_SYSTEM_GB = 100000.0


class LTX2AVChooseRun(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVChooseRun",
            has_intermediate_output=True,
            display_name="LTX-2 Choose Run",
            search_aliases=["which model", "recommend", "selector", "best settings", "vram", "auto settings"],
            category="LTX-2/utils",
            description="Chooses the released model, size, length and steps that fit the GPU, and says why. "
            "Loads nothing.",
            inputs=[
                io.Combo.Input(
                    "budget",
                    options=[MEASURED, *PRESETS],
                    default=MEASURED,
                    tooltip="Memory of the GPU that the run may use.",
                ),
                io.Combo.Input(
                    "quality",
                    options=list(QUALITIES),
                    default="balanced",
                    tooltip="fast and balanced take distilled weights, best full weights with guidance.",
                ),
                real_input(
                    "seconds",
                    default=5.0,
                    low=0.01,
                    high=MAX_SECONDS,
                    step=0.01,
                    tooltip="Wanted length; it becomes shorter only if no size fits.",
                ),
                io.Boolean.Input("with_image", default=False, tooltip="The clip begins with an image."),
                io.Boolean.Input(
                    "with_audio",
                    default=True,
                    tooltip="Off: LTX-Video is chosen, which has no audio and smaller models.",
                ),
                io.Combo.Input(
                    "lora",
                    options=[NONE, *RELEASED],
                    default=NONE,
                    tooltip="The model that a LoRA was trained for; only such models are chosen then.",
                ),
                real_input(
                    "system_gb",
                    default=0.0,
                    low=0.0,
                    high=MAX_SYSTEM_GB,
                    step=0.5,
                    tooltip="Most gigabytes of system memory to offload to; 0 is any number.",
                ),
            ],
            outputs=[
                Plan.Output(display_name="plan", tooltip="The clip, for nodes with a plan."),
                io.Int.Output(display_name="width", tooltip="Width of the clip."),
                io.Int.Output(display_name="height", tooltip="Height of the clip."),
                io.Int.Output(display_name="frames", tooltip="Number of frames."),
                io.Float.Output(display_name="fps", tooltip="Frames per second."),
                io.Int.Output(display_name="steps", tooltip="Steps of the first stage."),
                io.Int.Output(
                    display_name="stage2_steps", tooltip="Steps of the second stage; 0 for one stage."
                ),
                io.Float.Output(display_name="cfg", tooltip="Guidance scale."),
                io.String.Output(display_name="model", tooltip="Name of the model in ltx2 models list."),
                io.String.Output(display_name="dtype", tooltip="Number format in which it computes."),
                io.String.Output(display_name="offload", tooltip="none, text encoder, or blocks."),
                io.String.Output(display_name="report", tooltip="The files, and the reasons."),
            ],
        )

    @classmethod
    def execute(
        cls,
        budget: str,
        quality: Quality,
        seconds: float,
        with_image: bool,
        with_audio: bool,
        lora: str,
        system_gb: float,
    ) -> io.NodeOutput:
        found = choose_run(
            free_budget() if budget == MEASURED else PRESETS[budget],
            seconds=seconds,
            quality=quality,
            image=with_image,
            audio=with_audio,
            lora=None if lora == NONE else cast("Released", lora),
            system_memory=int(system_gb * 1e9) or None,
        )
        stages = 2 if found.stage2_steps else 1
        clip = plan_clip(
            found.clip.width,
            found.clip.height,
            frames=found.clip.frames,
            fps=found.clip.fps,
            stages=stages,
            numerics=Numerics.COMFY,
        )
        second = f" and {found.stage2_steps}" if found.stage2_steps else ""
        report = "\n".join(
            (*found.reasons, f"files: {', '.join(found.files)}", f"steps: {found.steps}{second}")
        )
        return io.NodeOutput(
            clip,
            clip.width,
            clip.height,
            clip.frames,
            clip.fps,
            found.steps,
            found.stage2_steps,
            found.cfg,
            found.model,
            str(found.as_dict()["dtype"]),
            found.offload,
            report,
            ui=ui.PreviewText(report),
        )
