"""A node that predicts how long a clip should be from its prompt, by the duration head of LTX-2.5."""

from __future__ import annotations

from typing import cast

import comfy.model_management
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ...ltx2_core.loading import Component
from ...ltx2_core.loading.checkpoint import open_checkpoint
from ...ltx2_core.text.duration import MAX_SECONDS, MIN_SECONDS, DurationHead, frames_for
from ...ltx2_core.types import TextContext
from ..host.values import Conditioning, Model
from ..inputs import fps_input, model_input, positive_input
from ..loading.file_inputs import combo
from ..loading.file_lists import DURATION_HEADS, check
from ..numbers import real_input

CATEGORY = "LTX-2/latent"


class LTX2AVDurationPredictor(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVDurationPredictor",
            has_intermediate_output=True,
            display_name="LTX-2 Duration Predictor",
            search_aliases=["length", "duration", "auto length", "seconds", "auto duration"],
            category=CATEGORY,
            description="Predicts how long the clip of a prompt should be, with the duration head of "
            "LTX-2.5. Connect seconds to length of LTX-2 Clip Plan.",
            inputs=[
                model_input(),
                positive_input(),
                combo("duration_head", DURATION_HEADS, "Duration head in models/model_patches."),
                fps_input("It decides how many frames the seconds are."),
                _bound("min_seconds", MIN_SECONDS, "The shortest clip, in seconds."),
                _bound("max_seconds", MAX_SECONDS, "The longest clip, in seconds."),
            ],
            outputs=[
                io.Int.Output(display_name="frames", tooltip="Number of frames, 8k + 1."),
                io.Float.Output(display_name="seconds", tooltip="Length of these frames, in seconds."),
                io.String.Output(display_name="report", tooltip="What was predicted."),
            ],
        )

    @classmethod
    def validate_inputs(cls, duration_head: str | None = None) -> bool:
        return check((DURATION_HEADS, duration_head))

    @classmethod
    def execute(
        cls,
        model: Model,
        positive: Conditioning,
        duration_head: str,
        fps: float,
        min_seconds: float,
        max_seconds: float,
    ) -> io.NodeOutput:
        if min_seconds > max_seconds:
            raise ValueError(
                f"min_seconds={min_seconds:g} is above max_seconds={max_seconds:g}: exchange the two"
            )
        file = open_checkpoint(DURATION_HEADS.path(duration_head))
        # On the CPU: it is ten megabytes, and one query over the tokens of a prompt.
        head = cast(DurationHead, file.load(Component.DURATION_HEAD, dtype=torch.float32))
        with torch.inference_mode():
            predicted = head.seconds(_context(model, positive, head))
        frames = frames_for(predicted, fps, shortest_s=min_seconds, longest_s=max_seconds)
        report = f"predicted {predicted:.2f} s: {frames} frames at {fps:g} fps, {frames / fps:.2f} s"
        return io.NodeOutput(frames, frames / fps, report, ui=ui.PreviewText(report))


def _context(model: Model, positive: Conditioning, head: DurationHead) -> TextContext:
    """The encoded text of ``positive``, for video and audio, as the transformer of ``model`` attends to it.

    The model's connectors, small transformers over the text, are run if they have not been. ``head`` tells
    how many channels of the result are for video; the others are for audio.
    """
    host, network = comfy.model_management, model.model.diffusion_model
    # The connectors are a part of the MODEL, which the host loads as a whole.
    host.load_models_gpu([model])
    text, values = positive[0]
    where: Tensor = text.to(model.load_device, model.model.get_dtype_inference())
    unprocessed = values.get("unprocessed_ltxav_embeds", False)
    joined: Tensor = network.preprocess_text_embeds(where, unprocessed).cpu()
    video = head.video_input_proj.in_features
    return TextContext(joined[..., :video], joined[..., video:])


def _bound(name: str, default: float, tooltip: str) -> io.Input:
    return real_input(name, default=default, low=0.1, high=600.0, step=0.1, tooltip=tooltip)
