"""A node that shows two videos on top of each other, with a slider between them."""

from __future__ import annotations

from comfy_api.latest import Input, Types, io

from ..host.video import temporary_mp4
from .decode import CATEGORY

KEY = "ltx2_compare"
"""Under which ``web/compare.js`` finds the two files."""


class LTX2AVCompare(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVCompare",
            display_name="LTX-2 Compare",
            search_aliases=["before after", "slider", "side by side", "difference", "preview video"],
            category=CATEGORY,
            description="Shows two videos in the same place, with a slider between them: a retake and its "
            "source, or the second stage and the first.",
            is_output_node=True,
            inputs=[
                io.Video.Input("before", tooltip="Shown left of the slider, such as the source."),
                io.Video.Input("after", tooltip="Shown right of the slider, such as the retake."),
            ],
            outputs=[io.Video.Output(display_name="video", tooltip="The video of after, for Save Video.")],
        )

    @classmethod
    def execute(cls, before: Input.Video, after: Input.Video) -> io.NodeOutput:
        return io.NodeOutput(after, ui={KEY: [_stored(video) for video in (before, after)]})


def _stored(video: Input.Video) -> dict[str, str]:
    """Write a video where the page can read it, and name the file."""
    path = temporary_mp4()
    video.save_to(str(path), format=Types.VideoContainer.MP4, codec=Types.VideoCodec.H264)
    return {"filename": path.name, "subfolder": "", "type": io.FolderType.temp.value}
