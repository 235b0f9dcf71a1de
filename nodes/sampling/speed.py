"""A node that switches the fused kernels of a MODEL on and off, which are on by default on a GPU with Triton.

The result is the same up to rounding, with any sampler.
"""

from __future__ import annotations

from comfy_api.latest import io

from ..host.call import FUSED
from ..host.model_options import with_option
from ..host.values import Model


class LTX2AVSpeed(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVSpeed",
            display_name="LTX-2 Speed",
            search_aliases=[
                "speed",
                "cache",
                "teacache",
                "fast",
                "fused",
                "torch compile",
                "acceleration",
                "easycache",
            ],
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
                    default=True,
                    tooltip="Exact. Joins gated updates, norms, modulation and rotations into fewer kernels, "
                    "on a GPU with Triton; also without this node. A kernel that fails a trial in the first "
                    "step is not used, and the log says why. Off computes every operation by itself.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="For the sampler.")],
        )

    @classmethod
    def execute(cls, model: Model, fused: bool = True) -> io.NodeOutput:
        return io.NodeOutput(with_option(model, FUSED, fused, what="fused kernels"))
