"""A node that plans a clip: it rounds size, length, frame rate and audio to what the model can generate."""

from __future__ import annotations

import torch
from comfy.model_management import intermediate_device
from comfy_api.latest import io, ui
from torch import Tensor

from ...ltx2_core.shapes import SPATIAL_SCALE, ClipPlan, Snap, plan_clip, size_like
from ...ltx2_core.types import AVLatent, Numerics
from ..conditioning.attached import marked_guides
from ..host.latents import Latent, from_av
from ..inputs import (
    AUTO,
    FRAMES,
    MAX_SECONDS,
    SECONDS,
    Plan,
    batch_input,
    fps_input,
    length_input,
    length_unit_input,
    size_input,
    stages_input,
)
from ..numbers import real_input

__all__ = ["FRAMES", "SECONDS", "LTX2AVClipPlan", "Plan", "empty_latent", "fps_input", "whole_frames"]

CATEGORY = "LTX-2/latent"


class LTX2AVClipPlan(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVClipPlan",
            has_intermediate_output=True,
            display_name="LTX-2 Clip Plan",
            search_aliases=[
                "seconds",
                "length",
                "duration",
                "frames",
                "size",
                "resolution",
                "width",
                "height",
                "fps",
                "aspect ratio",
                "text to video",
                "t2v",
                "frame count",
                "num_frames",
                "16:9",
                "batch",
            ],
            category=CATEGORY,
            description="Sets size, length, frame rate and audio of a clip in one place, reports what had to "
            "be rounded, and makes the empty latent of the first stage.",
            inputs=[
                size_input("width", 768, "In pixels"),
                size_input("height", 512, "In pixels"),
                length_unit_input(default=SECONDS, auto=True),
                length_input(
                    5.0,
                    "Length of the clip. The number of frames is rounded to 8k + 1 (9, 17, ... 121, ...) and "
                    "the audio is as long. Longer clips need more memory and time.",
                ),
                fps_input(
                    "For the model and for the saved file: a higher rate makes a "
                    "clip of the same number of frames shorter."
                ),
                io.Combo.Input(
                    "snap",
                    options=[snap.value for snap in (Snap.NEAREST, Snap.FLOOR, Snap.CEIL, Snap.ERROR)],
                    default=Snap.NEAREST.value,
                    tooltip="What to do with a size or length off the grid: round it to the nearest, "
                    "down, up, or stop with an error that names the nearest values.",
                ),
                stages_input("LTX-2 Latent Upscale"),
                batch_input(),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The clip gets the shape of this image, in place of width and height.",
                ),
                real_input(
                    "megapixels",
                    default=1.0,
                    low=0.01,
                    high=36.0,
                    step=0.01,
                    optional=True,
                    tooltip="Size of the clip with an image connected, in millions of pixels: 1 is about "
                    "1280 x 768. More is sharper and needs more memory and time.",
                ),
                real_input(
                    "predicted_seconds",
                    default=None,
                    low=0.01,
                    high=MAX_SECONDS,
                    optional=True,
                    force_input=True,
                    tooltip="From seconds of LTX-2 Duration Predictor, for length_unit auto.",
                ),
                io.Boolean.Input(
                    "with_audio",
                    default=True,
                    optional=True,
                    tooltip="Off for LTX-Video, which has no audio: the latent is of the video alone.",
                ),
            ],
            outputs=[
                Plan.Output(display_name="plan", tooltip="For nodes that need frame rate and length."),
                io.Latent.Output(display_name="latent", tooltip="Empty video and audio of the first stage."),
                io.Int.Output(display_name="width", tooltip="Width of the finished clip."),
                io.Int.Output(display_name="height", tooltip="Height of the finished clip."),
                io.Int.Output(display_name="frames", tooltip="Number of frames."),
                io.Float.Output(display_name="fps", tooltip="Frames per second."),
                io.String.Output(
                    display_name="report", tooltip="The plan as text, with everything that was rounded."
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
        image: Tensor | None = None,
        megapixels: float = 1.0,
        predicted_seconds: float | None = None,
        with_audio: bool = True,
    ) -> io.NodeOutput:
        if length_unit == AUTO:
            length = _predicted(predicted_seconds)
        if image is not None:
            width, height = size_of(image, megapixels, SPATIAL_SCALE * int(stages))
        plan = plan_clip(
            width,
            height,
            frames=whole_frames(length) if length_unit == FRAMES else None,
            seconds=None if length_unit == FRAMES else length,
            fps=fps,
            snap=Snap(snap),
            stages=int(stages),
            numerics=Numerics.COMFY,
        )
        # A plan is always that of the finished clip, so that fps and length hold in both stages.
        first = plan.half() if int(stages) == 2 else plan
        report = describe(plan, first, with_audio=with_audio)
        return io.NodeOutput(
            plan,
            empty_latent(first, batch_size, with_audio=with_audio),
            plan.width,
            plan.height,
            plan.frames,
            plan.fps,
            report,
            ui=ui.PreviewText(report),
        )


def size_of(image: Tensor, megapixels: float, multiple: int) -> tuple[int, int]:
    """Width and height with the proportions of an IMAGE, and about ``megapixels`` million pixels.

    Both are multiples of ``multiple`` pixels.
    """
    rows, columns = image.shape[1:3]
    # The multiple is that of the first stage: with two stages its sides are half of these.
    return size_like(columns, rows, megapixels * 1e6, multiple)


def _predicted(seconds: float | None) -> float:
    """Return ``seconds``, a predicted length. Raises ValueError if it is None, which is not connected."""
    if seconds is None:
        raise ValueError(
            f"length_unit={AUTO} takes a predicted length and none is connected: connect seconds of LTX-2 "
            f"Duration Predictor to predicted_seconds, or set length_unit to {SECONDS}"
        )
    return seconds


def whole_frames(length: float) -> int:
    """Convert a length in frames to a whole number. Raises ValueError if it has a fraction."""
    if length != int(length):
        raise ValueError(f"length={length:g} frames must be a whole number, or set length_unit to {SECONDS}")
    return int(length)


def empty_latent(plan: ClipPlan, batch_size: int, *, with_audio: bool = True) -> Latent:
    """Make a LATENT of zeros for the video and the audio of ``plan``, with ``batch_size`` clips.

    It has the same keys as ComfyUI's own empty latents. Without ``with_audio`` it is of the video alone.
    """
    device = intermediate_device()
    video = torch.zeros(plan.video_shape(batch_size), device=device)
    if not with_audio:
        return marked_guides({"samples": video, "downscale_ratio_spacial": SPATIAL_SCALE}, 0)
    audio = torch.zeros(plan.audio_shape(batch_size), device=device)
    # The host fits an empty latent to the model by its spatial ratio.
    latent = from_av(AVLatent(video, audio), {"downscale_ratio_spacial": SPATIAL_SCALE, "type": "audio"})
    return marked_guides(latent, 0)


def describe(plan: ClipPlan, first: ClipPlan, *, with_audio: bool = True) -> str:
    """Describe the plan as text: size, frames, rate and audio latent frames, then what was rounded.

    ``first`` is the plan of the first of two sampling runs (stages), which may sample at half the width and
    height; its size is named if it differs.
    """
    lines = [
        f"{plan.width} x {plan.height}, {plan.frames} frames at {plan.fps:g} fps = {plan.seconds:.3f} s",
        f"audio: {plan.audio_latents} latents" if with_audio else "without audio",
    ]
    if first != plan:
        lines.insert(1, f"first stage: {first.width} x {first.height}")
    return "\n".join((*lines, *plan.changes))
