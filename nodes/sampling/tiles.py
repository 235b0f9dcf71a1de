"""A node that evaluates large frames in spatial tiles, with any sampler."""

from __future__ import annotations

from comfy_api.latest import io

from ...ltx2_core.transformer.tiles import Tiles
from ..host.call import TILES
from ..host.model_options import with_option
from ..host.values import Model


class LTX2AVSpatialTiles(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVSpatialTiles",
            display_name="LTX-2 Spatial Tiles",
            search_aliases=["low vram", "tiles", "tiled sampling", "large size", "4k"],
            category="LTX-2/sampling",
            description="Evaluates a large frame in overlapping tiles at every step and blends their "
            "velocities, so that memory and the time of attention are those of a tile. For any sampler.",
            inputs=[
                io.Model.Input("model", tooltip="From LTX-2 Load All or LTX-2 Load Checkpoint."),
                io.Int.Input("columns", default=2, min=1, max=16, tooltip="Number of tiles side by side."),
                io.Int.Input("rows", default=1, min=1, max=16, tooltip="Number of tiles from top to bottom."),
                io.Int.Input(
                    "overlap",
                    default=4,
                    min=1,
                    max=64,
                    tooltip="The overlap of two tiles, in cells of 32 pixels: more hides the seam better and "
                    "takes longer.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="For the sampler.")],
        )

    @classmethod
    def execute(cls, model: Model, columns: int, rows: int, overlap: int) -> io.NodeOutput:
        return io.NodeOutput(in_tiles(model, Tiles(columns=columns, rows=rows, overlap=overlap)))


def in_tiles(model: Model, tiles: Tiles) -> Model:
    """A clone of ``model`` that computes each frame in ``tiles`` at every forward pass.

    Raises ValueError for ComfyUI's own network, which cannot do this.
    """
    return with_option(model, TILES, tiles, what="tiles")
