"""A node that speeds up a MODEL by fused kernels: gated updates, norms and modulation compiled into one.

The result is the same up to rounding, with any sampler.
"""

from __future__ import annotations

from comfy_api.latest import io

from ...ltx2_core.transformer.fused import Fused
from ..host.call import FUSED
from ..host.model_options import with_option
from ..host.values import Model


class LTX2AVSpeed(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVSpeed",
            display_name="LTX-2 Speed",
            search_aliases=["speed", "cache", "teacache", "fast", "fused", "torch compile", "acceleration"],
            category="LTX-2/sampling",
            description="Makes the model faster with the same result, up to the rounding of kernels. Lower "
            "precision depends on the checkpoint: ComfyUI multiplies one in fp8 as it is stored, if the GPU "
            "can.",
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="From LTX-2 Load All or LTX-2 Load Checkpoint; LoRAs may come before or after.",
                ),
                io.Boolean.Input(
                    "fused",
                    default=False,
                    tooltip="Exact. Compiles gated updates, norms and modulation into one kernel. Faster on "
                    "a GPU, after a first step of some seconds; if compilation fails, the log says so and "
                    "the run continues without it.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="For the sampler.")],
        )

    @classmethod
    def execute(cls, model: Model, fused: bool = False) -> io.NodeOutput:
        # Made once for the node, so that steps share the compiled kernels.
        kernels = Fused() if fused else None
        return io.NodeOutput(with_option(model, FUSED, kernels, what="fused kernels"))
