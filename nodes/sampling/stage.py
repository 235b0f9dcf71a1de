"""Nodes for schedules, and for one sampling stage: prompt and latent in, sampled latent out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from comfy_api.latest import io, ui
from torch import Tensor

from ...ltx2_core.sampling.presets import LTXV as SCHEDULED
from ...ltx2_core.sampling.schedules import (
    FIXED_SIGMAS,
    MANY_TOKENS,
    last_sigmas,
    ltxv_sigmas,
    partial_sigmas,
    validate_sigmas,
)
from ..convert import video_of
from ..host.latents import AUDIO_ONLY, Latent
from ..host.sampling import GuidedSampling, HostSampling
from ..host.values import Conditioning, Model
from ..inputs import cfg_input, quantity, sampled_inputs, shift_input, steps_input
from .checks import check_stage
from .presets import BY_HAND, preset_input, preset_of

CATEGORY = "LTX-2/sampling"
LTXV = "LTX-2 scheduler"
LISTS = {"distilled 8": "distilled", "distilled 3 (second stage)": "distilled_stage2"}
SAMPLERS = ["euler", "euler_ancestral"]


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
            search_aliases=["ksampler", "sampler", "sampling", "generate", "denoise"],
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
            outputs=[io.Latent.Output(display_name="latent", tooltip="The sampled latent, with its masks.")],
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
        run = plan_run(model, latent, RunWidgets(**widgets))
        sampled = run(model, positive, negative, latent, seed)
        return io.NodeOutput(sampled, ui=ui.PreviewText(run.report) if run.report else None)


@dataclass(frozen=True, kw_only=True, eq=False)
class RunWidgets:
    """The values of the widgets of ``run_inputs``, without the seed, and of ``run_extras``."""

    schedule: str
    steps: int
    cfg: float
    audio_cfg: float
    sampler: str
    sigmas: Tensor | None = None
    preset: Mapping[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class Run:
    """A sampling run that is ready to start: its noise levels, and what samples along them.

    ``report`` says what a preset chose; it is empty without one.
    """

    sigmas: Tensor
    sampling: HostSampling | GuidedSampling
    report: str = ""

    def __call__(
        self, model: Model, positive: Conditioning, negative: Conditioning, latent: Latent, seed: int
    ) -> Latent:
        return self.sampling(model, positive, negative, latent, seed=seed, sigmas=self.sigmas)


def plan_run(model: Model, latent: Latent, widgets: RunWidgets, *, denoise: float = 1.0) -> Run:
    """Prepare the sampling run that ``widgets`` describe for ``latent``.

    With ``denoise`` below 1 only this last share of the schedule is used; connected ``sigmas`` are used as
    they are. Raises ValueError for sigmas that do not fall.
    """
    sampling: HostSampling | GuidedSampling
    sigmas, report = widgets.sigmas, ""
    if widgets.preset is not None and widgets.preset["preset"] != BY_HAND:
        of_widgets = preset_of(widgets.preset, model)
        chosen, listed, blocks, _ = of_widgets
        report = of_widgets.describe()
        if sigmas is None and chosen.schedule == SCHEDULED:
            tokens = video_tokens(latent)
            # With less denoising a scheduler makes a longer schedule, of which these steps are the end; a
            # fixed list can only be cut.
            sigmas = partial_sigmas(
                lambda count: replace(chosen, steps=count).sigmas(tokens), chosen.steps, denoise
            )
        elif sigmas is None:
            sigmas = last_sigmas(chosen.sigmas() if listed is None else listed, denoise)
        sampling = GuidedSampling(guidance=chosen.guidance(blocks), sampler=chosen.sampler, eta=chosen.eta)
    else:
        if sigmas is None:
            sigmas = schedule_sigmas(widgets.schedule, widgets.steps, latent, denoise)
        # A scale of 0 would ignore the prompt, so that value is free to mean the scale of the video.
        audio_cfg = widgets.audio_cfg or widgets.cfg
        sampling = HostSampling(cfg=widgets.cfg, audio_cfg=audio_cfg, sampler=widgets.sampler)
    # A connected schedule may be a part of one, and so end above 0.
    validate_sigmas(sigmas, partial=True)
    return Run(sigmas, sampling, report)


def run_inputs() -> list[io.Input]:
    """Create the widgets of a sampling run: seed, schedule, steps, guidance scales and sampler."""
    return [
        quantity("seed", 0, low=0, control_after_generate=True),
        io.Combo.Input(
            "schedule",
            options=[LTXV, *LISTS],
            tooltip="LTX-2 scheduler: full model, uses steps. distilled 8: distilled model or LoRA, cfg 1. "
            "distilled 3: second stage after the upscaler, cfg 1.",
        ),
        steps_input("Only the LTX-2 scheduler uses it."),
        cfg_input(
            "cfg",
            4.0,
            "About 4 for the full model: more follows the prompt more strongly. 1 takes half the time, and "
            "is right for distilled schedules.",
        ),
        cfg_input("audio_cfg", 0.0, "0 means the same as cfg."),
        io.Combo.Input(
            "sampler",
            options=SAMPLERS,
            tooltip="euler adds no noise; euler_ancestral adds fresh noise at every step.",
        ),
    ]


def run_extras() -> list[io.Input]:
    """Create the optional inputs ``sigmas`` and ``preset``, which replace widgets of ``run_inputs``."""
    return [
        io.Sigmas.Input(
            "sigmas", optional=True, tooltip="A custom schedule, in place of schedule and steps."
        ),
        preset_input(),
    ]


def schedule_sigmas(schedule: str, steps: int, latent: Latent, denoise: float = 1.0) -> Tensor:
    """The noise levels of the schedule named ``schedule``.

    The LTX-2 scheduler uses ``steps`` and the size of the video; all others are fixed lists. With ``denoise``
    below 1 only this last share of the schedule is used: ``steps`` steps in it, or the last steps of a list.
    """
    sigmas: Tensor
    if schedule == LTXV:
        tokens = video_tokens(latent)
        sigmas = partial_sigmas(lambda count: ltxv_sigmas(count, tokens), steps, denoise)
    else:
        sigmas = last_sigmas(FIXED_SIGMAS[LISTS[schedule]], denoise).clone()
    return sigmas


def video_tokens(latent: Latent) -> int:
    """Number of video tokens of a LATENT, guide frames included; 4096 for a LATENT of audio only."""
    # The placeholder video of a latent of audio alone says nothing about the size of a clip.
    tokens: int = MANY_TOKENS if latent.get(AUDIO_ONLY) else prod(video_of(latent)["samples"].shape[2:])
    return tokens
