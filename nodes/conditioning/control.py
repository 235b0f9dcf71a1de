"""A node that makes control videos (edges) without other packs."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ...ltx2_core.media.edges import canny
from ..convert import frames_from_image
from ..inputs import share_input
from .images import CATEGORY


class LTX2AVCanny(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVCanny",
            display_name="LTX-2 Canny Edges",
            search_aliases=["edges", "canny", "outline", "lineart", "control", "preprocessor"],
            category=CATEGORY,
            description="Draws the edges of every frame in white on black: the control video of a canny or "
            "union IC-LoRA, for LTX-2 Add Guide. Preprocessor packs make pose and depth maps.",
            inputs=[
                io.Image.Input("image", tooltip="Image or clip."),
                share_input(
                    "low",
                    0.1,
                    "Weakest edge that is drawn where it continues a strong one: a lower value draws more.",
                    low=0.01,
                ),
                share_input(
                    "high",
                    0.3,
                    "Weakest edge that is drawn by itself: a lower value draws more. A step from black to "
                    "white has about 0.5.",
                    low=0.01,
                ),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The edges, of the same size.")],
        )

    @classmethod
    def execute(cls, image: Tensor, low: float, high: float) -> io.NodeOutput:
        edges = canny(frames_from_image(image), low, high)
        return io.NodeOutput(edges[..., None].expand(-1, -1, -1, 3).contiguous())
