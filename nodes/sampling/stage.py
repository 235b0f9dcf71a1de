"""Nodes for schedules, and for one sampling stage: prompt and latent in, sampled latent out."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ...ltx2_core.sampling.schedules import FIXED_SIGMAS, MANY_TOKENS, ltxv_sigmas
from ..host.latents import Latent
from ..host.values import Conditioning, Model
from ..inputs import sampled_inputs, shift_input, steps_input
from .checks import check_prompts, check_stage
from .runs import RunWidgets, plan_run, run_extras, run_inputs, video_tokens

CATEGORY = "LTX-2/sampling"


class LTX2AVScheduler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVScheduler",
            display_name="LTX-2 Scheduler",
            search_aliases=["steps", "sigmas", "schedule", "shift", "basic scheduler"],
            category=CATEGORY,
            description="The schedule of the full (not distilled) model: the larger the clip, the more "
            "steps at high noise.",
            inputs=[
                steps_input(),
                shift_input(
                    "max_shift",
                    2.05,
                    "Shift towards noise at 4096 video tokens; more favours layout over detail.",
                ),
                shift_input("base_shift", 0.95, "Shift towards noise at 1024 video tokens."),
                io.Boolean.Input(
                    "stretch", default=True, tooltip="Make the last step before 0 start exactly at terminal."
                ),
                shift_input("terminal", 0.1, "Noise level before the last step, with stretch.", high=0.99),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="Latent whose size sets the shift; without it 4096 tokens.",
                ),
            ],
            outputs=[io.Sigmas.Output(display_name="sigmas", tooltip="For sigmas of LTX-2 Sample Stage.")],
        )

    @classmethod
    def execute(
        cls,
        steps: int,
        max_shift: float,
        base_shift: float,
        stretch: bool,
        terminal: float,
        latent: Latent | None = None,
    ) -> io.NodeOutput:
        sigmas = ltxv_sigmas(
            steps,
            MANY_TOKENS if latent is None else video_tokens(latent),
            max_shift=max_shift,
            base_shift=base_shift,
            stretch=stretch,
            terminal=terminal,
        )
        return io.NodeOutput(sigmas)


class LTX2AVDistilledSigmas(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVDistilledSigmas",
            display_name="LTX-2 Distilled Sigmas",
            search_aliases=["distilled", "8 steps", "schedule", "manual sigmas"],
            category=CATEGORY,
            description="The published fixed schedules of distilled models and second stages.",
            inputs=[
                io.Combo.Input(
                    "schedule",
                    options=list(FIXED_SIGMAS),
                    tooltip="distilled: 8 steps from noise. The others refine an existing clip: "
                    "distilled_stage2 for 2.0, stage2_2.3 for 2.3.",
                )
            ],
            outputs=[io.Sigmas.Output(display_name="sigmas", tooltip="For sigmas of LTX-2 Sample Stage.")],
        )

    @classmethod
    def execute(cls, schedule: str) -> io.NodeOutput:
        # A copy, so that no node can change the published list.
        return io.NodeOutput(FIXED_SIGMAS[schedule].clone())


class LTX2AVSampleStage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVSampleStage",
            has_intermediate_output=True,
            display_name="LTX-2 Sample Stage",
            search_aliases=["ksampler", "sampler", "sampling", "generate", "denoise", "seed", "refine"],
            category=CATEGORY,
            description="One sampling stage of video and audio together: noise, schedule, guidance and "
            "sampler.",
            inputs=[
                *sampled_inputs("cfg is 1"),
                io.Latent.Input(
                    "latent", tooltip="Latent to start from; its noise mask is 0 where content is preserved."
                ),
                *run_inputs(),
                *run_extras(),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="The sampled latent, with its masks."),
                io.String.Output(display_name="report", tooltip="Steps, sampler and guidance of the run."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Model,
        positive: Conditioning,
        negative: Conditioning,
        latent: Latent,
        seed: int,
        **widgets: Any,
    ) -> io.NodeOutput:
        check_stage(positive, latent)
        check_prompts(model, positive)
        run = plan_run(model, latent, RunWidgets(**widgets))
        sampled = run(model, positive, negative, latent, seed)
        return io.NodeOutput(sampled, run.report, ui=ui.PreviewText(run.report))
