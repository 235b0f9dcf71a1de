"""A node for guidance that changes with the noise level: other scales at and below some level."""

from __future__ import annotations

from comfy_api.latest import io

from ...ltx2_core.sampling.guidance import StreamGuidance
from ..inputs import sigma_input
from .guidance import CATEGORY, GuidanceRanges, Ranges, Scales


class LTX2AVGuidanceRange(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVGuidanceRange",
            display_name="LTX-2 Guidance Range",
            search_aliases=["cfg schedule", "cfg range", "guidance interval"],
            category=CATEGORY,
            description="Other scales for the steps at and below one noise level. For LTX-2 Guider.",
            inputs=[
                sigma_input(
                    "below_sigma",
                    0.5,
                    "The scales apply at this noise level and below, down to the next range.",
                    low=0.001,
                    high=0.999,
                ),
                Scales.Input("video", tooltip="Scales of the video, from LTX-2 Stream Guidance."),
                Scales.Input(
                    "audio", optional=True, tooltip="Scales of the audio; by default those of the video."
                ),
                Ranges.Input("ranges", optional=True, tooltip="Further ranges, in any order."),
            ],
            outputs=[Ranges.Output(display_name="ranges", tooltip="For LTX-2 Guider, or another range.")],
        )

    @classmethod
    def execute(
        cls,
        below_sigma: float,
        video: StreamGuidance,
        audio: StreamGuidance | None = None,
        ranges: GuidanceRanges | None = None,
    ) -> io.NodeOutput:
        others = ranges or {}
        if below_sigma in others:
            raise ValueError(
                f"below_sigma={below_sigma:g} is used by two guidance ranges: set one to another value, such "
                f"as {below_sigma / 2:.3g} for the later steps"
            )
        return io.NodeOutput({**others, below_sigma: (video, video if audio is None else audio)})
