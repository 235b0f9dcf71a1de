"""The plan of a clip: size, length, frame rate and sound brought onto the model's grid together."""

from __future__ import annotations

import torch
from comfy.model_management import intermediate_device
from comfy_api.latest import io, ui

from ...ltx2_core.shapes import SPATIAL_SCALE, ClipPlan, Snap, plan_clip
from ...ltx2_core.types import AVLatent, Numerics
from ..conditioning.attached import marked_guides
from ..host.latents import Latent, from_av

CATEGORY = "LTX-2/latent"
Plan = io.Custom("LTX2AV_CLIP_PLAN")
SECONDS, FRAMES = "seconds", "frames"
MAX_SIZE = 16384
MAX_FPS = 240.0


class LTX2AVClipPlan(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVClipPlan",
            has_intermediate_output=True,
            display_name="LTX-2 Clip Plan",
            category=CATEGORY,
            description="Decides size, length, frame rate and sound of a clip in one place, says what "
            "had to be rounded, and makes the empty latent of the first stage.",
            inputs=[
                size_input("width", 768, "Width of the finished clip in pixels"),
                size_input("height", 512, "Height of the finished clip in pixels"),
                io.Combo.Input(
                    "length_unit",
                    options=[SECONDS, FRAMES],
                    default=SECONDS,
                    tooltip="Whether length counts seconds or frames.",
                ),
                io.Float.Input(
                    "length",
                    default=5.0,
                    min=0.01,
                    max=100000.0,
                    step=0.01,
                    tooltip="How long the clip is. The number of frames becomes 8k + 1 (9, 17, ... 121, "
                    "...); the sound follows it. Longer clips need more memory and time.",
                ),
                fps_input("Frames per second, of the model's sense of time and of the saved file."),
                io.Combo.Input(
                    "snap",
                    options=[snap.value for snap in (Snap.NEAREST, Snap.FLOOR, Snap.CEIL, Snap.ERROR)],
                    default=Snap.NEAREST.value,
                    tooltip="What to do with a size or length off the grid: round it to the nearest, "
                    "down, up, or stop with an error that names the nearest values.",
                ),
                io.Combo.Input(
                    "stages",
                    options=["1", "2"],
                    default="2",
                    tooltip="2: the first stage has half the width and height and LTX-2 Latent Upscale "
                    "doubles them. 1: sample at full size.",
                ),
                batch_input(),
            ],
            outputs=[
                Plan.Output(display_name="plan", tooltip="For nodes that need frame rate and length."),
                io.Latent.Output(display_name="latent", tooltip="Empty video and audio of the first stage."),
                io.Int.Output(display_name="width", tooltip="Width of the finished clip."),
                io.Int.Output(display_name="height", tooltip="Height of the finished clip."),
                io.Int.Output(display_name="frames", tooltip="Number of frames."),
                io.Float.Output(display_name="fps", tooltip="Frames per second."),
                io.String.Output(
                    display_name="report", tooltip="The plan in words, with everything that was rounded."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        width: int,
        height: int,
        length_unit: str,
        length: float,
        fps: float,
        snap: str,
        stages: str,
        batch_size: int,
    ) -> io.NodeOutput:
        plan = plan_clip(
            width,
            height,
            frames=whole_frames(length) if length_unit == FRAMES else None,
            seconds=length if length_unit == SECONDS else None,
            fps=fps,
            snap=Snap(snap),
            stages=int(stages),
            numerics=Numerics.COMFY,
        )
        first = plan.half() if int(stages) == 2 else plan
        report = describe(plan, first)
        return io.NodeOutput(
            plan,
            empty_latent(first, batch_size),
            plan.width,
            plan.height,
            plan.frames,
            plan.fps,
            report,
            ui=ui.PreviewText(report),
        )


def whole_frames(length: float) -> int:
    """A length in frames. Raises ValueError for a fraction of a frame."""
    if length != int(length):
        raise ValueError(f"length={length:g} frames must be a whole number, or set length_unit to {SECONDS}")
    return int(length)


def empty_latent(plan: ClipPlan, batch_size: int) -> Latent:
    """Zeros for video and audio, with the further keys of the host's own empty latents joined."""
    device = intermediate_device()
    video = torch.zeros(plan.video_shape(batch_size), device=device)
    audio = torch.zeros(plan.audio_shape(batch_size), device=device)
    latent = from_av(AVLatent(video, audio), {"downscale_ratio_spacial": SPATIAL_SCALE, "type": "audio"})
    return marked_guides(latent, 0)


def describe(plan: ClipPlan, first: ClipPlan) -> str:
    """The plan in a few short lines."""
    lines = [
        f"{plan.width} x {plan.height}, {plan.frames} frames at {plan.fps:g} fps = {plan.seconds:.3f} s",
        f"sound: {plan.audio_latents} latents",
    ]
    if first != plan:
        lines.insert(1, f"first stage: {first.width} x {first.height}")
    return "\n".join((*lines, *plan.changes))


def size_input(name: str, default: int, what: str) -> io.Input:
    """A width or height widget."""
    return io.Int.Input(
        name,
        default=default,
        min=SPATIAL_SCALE,
        max=MAX_SIZE,
        step=SPATIAL_SCALE,
        tooltip=f"{what}: a multiple of {SPATIAL_SCALE}, of {2 * SPATIAL_SCALE} with two stages.",
    )


def fps_input(tooltip: str) -> io.Input:
    """A frame rate widget."""
    return io.Float.Input("fps", default=24.0, min=1.0, max=MAX_FPS, step=0.001, tooltip=tooltip)


def plan_input(tooltip: str) -> io.Input:
    """An optional clip plan."""
    return Plan.Input("plan", optional=True, tooltip=tooltip)


def batch_input() -> io.Input:
    """A batch size widget."""
    return io.Int.Input(
        "batch_size",
        default=1,
        min=1,
        max=64,
        tooltip="How many clips to make at once, each from its own noise. Memory grows with it.",
    )
