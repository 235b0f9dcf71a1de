"""A node that reports what a model file holds."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ...ltx2_core.loading.describe import describe
from ...ltx2_core.loading.file_report import as_text
from ..host.folders import every_file, model_path
from .loaders import CATEGORY


class LTX2AVInspect(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVInspect",
            display_name="LTX-2 Inspect File",
            search_aliases=["file info", "model info", "which model", "safetensors", "metadata"],
            category=CATEGORY,
            is_output_node=True,
            description="Reports what a model file is: LTX-2 generation, layout, components, number formats, "
            "the layers of a LoRA, and why a file does not appear in a loader. Reads headers only.",
            inputs=[
                io.Combo.Input(
                    "file",
                    options=list(every_file()),
                    tooltip="Any file or folder in the model folders, loadable or not.",
                )
            ],
            outputs=[io.String.Output(display_name="report", tooltip="What the file holds.")],
        )

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        path = model_path(file)
        try:
            report = as_text(describe(path))
        # A report and not a failed node: why a file cannot be loaded is what this node is for.
        except (OSError, ValueError) as error:
            report = f"{file} cannot be loaded: {error}"
        return io.NodeOutput(report, ui=ui.PreviewText(report))
