"""A node that makes the library's samplers a SAMPLER for ComfyUI's own sampling nodes."""

from __future__ import annotations

from comfy_api.latest import io

from ...ltx2_core.sampling.samplers import SAMPLERS, STOCHASTIC
from ..host.samplers import sampler_object
from ..quantity import quantity


class LTX2AVSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVSampler",
            display_name="LTX-2 Sampler",
            search_aliases=["res_2s", "res 2s", "euler", "sampler select"],
            category="LTX-2/sampling",
            description="A sampler for SamplerCustomAdvanced that treats video and audio separately and "
            "draws its noise on the CPU, so that every device makes the same clip.",
            inputs=[
                io.Combo.Input(
                    "sampler",
                    options=list(SAMPLERS),
                    tooltip="euler is the plain one; res_2s looks best, at two evaluations per step; "
                    "dpmpp_2m and res_multistep are second order at one evaluation; the cfg_pp ones "
                    "evaluate the negative prompt at any cfg.",
                ),
                quantity(
                    "eta",
                    -1.0,
                    low=-1.0,
                    step=0.01,
                    more="-1 is the usual share: 1 for euler_ancestral and euler_ancestral_cfg_pp, 0.5 for "
                    "res_2s.",
                ),
            ],
            outputs=[io.Sampler.Output(display_name="sampler", tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, sampler: str, eta: float) -> io.NodeOutput:
        # -1 is the usual share, and the other samplers have none.
        share = eta if eta >= 0 and sampler in STOCHASTIC else None
        return io.NodeOutput(sampler_object(sampler, share))
