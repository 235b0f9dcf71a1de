"""Schedules, and one sampling stage from prompt and latent to latent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from comfy_api.latest import io
from torch import Tensor

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
from ..host.sampling import sample, sample_guided
from .checks import check_stage
from .presets import BY_HAND, SCHEDULED, preset_input, preset_of

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
            category=CATEGORY,
            description="The schedule of the full (not distilled) model: the larger the clip, the more "
            "steps at high noise.",
            inputs=[
                steps_input(),
                io.Float.Input(
                    "max_shift",
                    default=2.05,
                    min=0.0,
                    max=100.0,
                    step=0.01,
                    tooltip="Shift towards noise at 4096 video tokens; more favours layout over detail.",
                ),
                io.Float.Input(
                    "base_shift",
                    default=0.95,
                    min=0.0,
                    max=100.0,
                    step=0.01,
                    tooltip="Shift towards noise at 1024 video tokens.",
                ),
                io.Boolean.Input(
                    "stretch", default=True, tooltip="Make the last step before 0 start exactly at terminal."
                ),
                io.Float.Input(
                    "terminal",
                    default=0.1,
                    min=0.0,
                    max=0.99,
                    step=0.01,
                    tooltip="Noise level before the last step, with stretch.",
                ),
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
        tokens = {} if latent is None else {"tokens": video_tokens(latent)}
        shape = {"max_shift": max_shift, "base_shift": base_shift, "stretch": stretch, "terminal": terminal}
        return io.NodeOutput(ltxv_sigmas(steps, **tokens, **shape))


class LTX2AVDistilledSigmas(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVDistilledSigmas",
            display_name="LTX-2 Distilled Sigmas",
            category=CATEGORY,
            description="The published fixed schedules of distilled models and second stages.",
            inputs=[
                io.Combo.Input(
                    "schedule",
                    options=list(FIXED_SIGMAS),
                    tooltip="distilled: 8 steps from noise. The others go on from an existing clip: "
                    "distilled_stage2 for 2.0, stage2_2.3 for 2.3.",
                )
            ],
            outputs=[io.Sigmas.Output(display_name="sigmas", tooltip="For sigmas of LTX-2 Sample Stage.")],
        )

    @classmethod
    def execute(cls, schedule: str) -> io.NodeOutput:
        return io.NodeOutput(FIXED_SIGMAS[schedule].clone())


class LTX2AVSampleStage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVSampleStage",
            display_name="LTX-2 Sample Stage",
            category=CATEGORY,
            description="One sampling stage of video and audio together: noise, schedule, guidance and "
            "sampler.",
            inputs=[
                io.Model.Input("model", tooltip="The model, with LoRAs if any."),
                io.Conditioning.Input("positive", tooltip="From LTX-2 Prompt."),
                io.Conditioning.Input(
                    "negative", tooltip="From LTX-2 Prompt; without effect where cfg is 1."
                ),
                io.Latent.Input("latent", tooltip="Latent to start from; its noise mask says what to keep."),
                *run_inputs(),
                *run_extras(),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="The sampled latent; masks go along.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        latent: Latent,
        seed: int,
        schedule: str,
        steps: int,
        cfg: float,
        audio_cfg: float,
        sampler: str,
        sigmas: Tensor | None = None,
        preset: dict[str, Any] | None = None,
    ) -> io.NodeOutput:
        check_stage(positive, latent)
        settings = {"schedule": schedule, "steps": steps, "cfg": cfg, "audio_cfg": audio_cfg}
        run = plan_run(model, latent, **settings, sampler=sampler, sigmas=sigmas, preset=preset)
        return io.NodeOutput(run(model, positive, negative, latent, seed))


@dataclass(frozen=True, eq=False)
class Run:
    """How to sample: along which sigmas, with the host's guider or the library's."""

    sigmas: Tensor
    sample: Callable[..., Latent]
    how: dict[str, Any]

    def __call__(self, model: Any, positive: Any, negative: Any, latent: Latent, seed: int) -> Latent:
        return self.sample(model, positive, negative, latent, seed=seed, sigmas=self.sigmas, **self.how)


def plan_run(
    model: Any,
    latent: Latent,
    *,
    schedule: str,
    steps: int,
    cfg: float,
    audio_cfg: float,
    sampler: str,
    sigmas: Tensor | None = None,
    preset: dict[str, Any] | None = None,
    denoise: float = 1.0,
) -> Run:
    """What the widgets of ``run_inputs`` and ``run_extras`` say; ``denoise`` runs that part of a schedule."""
    if preset is not None and preset["preset"] != BY_HAND:
        chosen, listed, blocks = preset_of(preset, model)
        if sigmas is None and chosen.schedule == SCHEDULED:
            tokens = video_tokens(latent)
            sigmas = partial_sigmas(
                lambda count: replace(chosen, steps=count).sigmas(tokens), chosen.steps, denoise
            )
        elif sigmas is None:
            sigmas = last_sigmas(chosen.sigmas() if listed is None else listed, denoise)
        how = {"guidance": chosen.guidance(blocks), "sampler": chosen.sampler, "eta": chosen.eta}
        run = Run(sigmas, sample_guided, how)
    else:
        if sigmas is None:
            sigmas = schedule_sigmas(schedule, steps, latent, denoise)
        run = Run(sigmas, sample, {"cfg": cfg, "audio_cfg": audio_cfg or cfg, "sampler": sampler})
    validate_sigmas(sigmas, partial=True)
    return run


def run_inputs() -> list[io.Input]:
    """The widgets of a sampling run."""
    return [
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=2**64 - 1,
            control_after_generate=True,
            tooltip="Starting noise: the same seed gives the same clip.",
        ),
        io.Combo.Input(
            "schedule",
            options=[LTXV, *LISTS],
            tooltip="LTX-2 scheduler: full model, uses steps. distilled 8: distilled model or "
            "LoRA, cfg 1. distilled 3: second stage after the upscaler, cfg 1.",
        ),
        steps_input(" Only the LTX-2 scheduler uses it."),
        io.Float.Input(
            "cfg",
            default=4.0,
            min=0.0,
            max=100.0,
            step=0.1,
            tooltip="How strongly to follow the prompt: about 4 for the full model. 1 turns "
            "guidance off, takes half the time, and is right for distilled schedules.",
        ),
        io.Float.Input(
            "audio_cfg",
            default=0.0,
            min=0.0,
            max=100.0,
            step=0.1,
            tooltip="Guidance of the audio by itself; 0 means the same as cfg.",
        ),
        io.Combo.Input(
            "sampler",
            options=SAMPLERS,
            tooltip="euler gives the same result with few and many steps; euler_ancestral adds "
            "fresh noise at every step.",
        ),
    ]


def run_extras() -> list[io.Input]:
    """What may take their place."""
    return [
        io.Sigmas.Input(
            "sigmas", optional=True, tooltip="A schedule of your own, in place of schedule and steps."
        ),
        preset_input(),
    ]


def schedule_sigmas(schedule: str, steps: int, latent: Latent, denoise: float = 1.0) -> Tensor:
    """The schedule of that name; the one with steps depends on the size of the video.

    With ``denoise`` below 1 it takes as many steps over that part, a fixed list its last ones.
    """
    if schedule != LTXV:
        return last_sigmas(FIXED_SIGMAS[LISTS[schedule]], denoise).clone()
    tokens = video_tokens(latent)
    return partial_sigmas(lambda count: ltxv_sigmas(count, tokens), steps, denoise)


def video_tokens(latent: Latent) -> int:
    """Tokens of the video of a LATENT, guide frames included; 4096 of one that holds sound alone."""
    if latent.get(AUDIO_ONLY):
        return MANY_TOKENS
    return prod(video_of(latent)["samples"].shape[2:])


def steps_input(more: str = "") -> io.Input:
    """A widget for the number of steps."""
    return io.Int.Input(
        "steps", default=20, min=1, max=10000, tooltip=f"Sampling steps: more take longer and refine.{more}"
    )
