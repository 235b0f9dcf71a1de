"""One sampling run from the widgets that several nodes share: its noise levels, guidance and sampler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ...ltx2_core.run.recipes import of_kind
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
from ..host.recipe import recipe_of_model
from ..host.sampling import GuidedSampling, HostSampling
from ..host.values import Conditioning, Model
from ..inputs import AS_ABOVE, LEFT_TO_MODEL, cfg_input, steps_input
from ..quantity import quantity
from .guidance import scales_text
from .presets import preset_input, preset_of

LTXV = "LTX-2 scheduler"
SECOND_STAGE = "second stage, by the model"
LISTS = {"distilled 8": "distilled", "distilled 3 (second stage)": "distilled_stage2"}
"""Choices of the schedule widget with fixed noise levels -> key of these levels in ``FIXED_SIGMAS``."""

SAMPLERS = [LEFT_TO_MODEL, "euler", "euler_ancestral"]


@dataclass(frozen=True, kw_only=True, eq=False)
class RunWidgets:
    """The values of the widgets of :func:`run_inputs`, without the seed, and of :func:`run_extras`.

    ``sigmas`` are connected noise levels, which replace schedule and steps; None if none are. ``preset`` has
    the chosen preset under the key "preset" and its numbers by name; None in workflows without this widget.
    """

    schedule: str
    steps: int
    cfg: float
    audio_cfg: float
    sampler: str
    sigmas: Tensor | None = None
    preset: Mapping[str, Any] | None = None

    @property
    def has_preset(self) -> bool:
        """Whether a preset is chosen, which replaces schedule, steps, guidance scales and sampler."""
        return self.preset is not None and self.preset["preset"] != AS_ABOVE


@dataclass(frozen=True)
class Settings:
    """What the widgets and the recipe of the model decide together: sampler and fixed noise levels.

    The recipe is a table of default settings. ``fixed`` is a key of ``FIXED_SIGMAS``, the published lists, or
    None for the LTX-2 scheduler. ``reason`` names the recipe in reports; it is empty if the widgets decide
    all.
    """

    sampler: str
    fixed: str | None
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Run:
    """A sampling run that is ready to start: its noise levels, and the object that samples along them.

    ``reason`` says for the report what the model's recipe (default settings) has chosen.
    """

    sigmas: Tensor
    sampling: HostSampling | GuidedSampling
    reason: str = ""

    def __call__(
        self, model: Model, positive: Conditioning, negative: Conditioning, latent: Latent, seed: int
    ) -> Latent:
        return self.sampling(model, positive, negative, latent, seed=seed, sigmas=self.sigmas)

    @property
    def report(self) -> str:
        """A line on the run: number of steps, first noise level, sampler, guidance, choices of the recipe."""
        sampling = self.sampling
        guided = (
            f"cfg {sampling.cfg:g}"
            if isinstance(sampling, HostSampling)
            else scales_text(sampling.guidance.at(1.0))
        )
        steps = len(self.sigmas) - 1
        line = f"{steps} step{'s' * (steps != 1)} from noise level {float(self.sigmas[0]):.4g}"
        return f"{line}, {sampling.sampler}, {guided}{self.reason}"


def plan_run(model: Model, latent: Latent, widgets: RunWidgets, *, denoise: float = 1.0) -> Run:
    """Prepare the sampling run that ``widgets`` describe for ``latent``.

    With ``denoise`` below 1 only this last share of the schedule is used; connected ``sigmas`` are used as
    they are. Raises ValueError for noise levels that do not fall.
    """
    run = (_preset_run if widgets.has_preset else _plain_run)(model, latent, widgets, denoise)
    # A connected schedule may be a part of one, and so end above 0.
    validate_sigmas(run.sigmas, partial=True)
    return run


def settings_for(model: Model, widgets: RunWidgets) -> Settings:
    """The sampler and schedule of a run without a preset.

    What the widgets leave to the model is filled in from its recipe (table of default settings).
    """
    by_model = widgets.sampler == LEFT_TO_MODEL, widgets.sigmas is None and widgets.schedule == SECOND_STAGE
    fixed = LISTS.get(widgets.schedule)
    if not any(by_model):
        return Settings(widgets.sampler, fixed)
    recipe = of_kind(recipe_of_model(model), distilled=_distilled(widgets))
    sampler = recipe.stage2_sampler if _refines(widgets) else recipe.sampler
    chosen = [name for name, is_open in zip(("sampler", "sigmas"), by_model, strict=True) if is_open]
    return Settings(
        sampler=sampler if by_model[0] else widgets.sampler,
        fixed=recipe.node_stage2_sigmas if by_model[1] else fixed,
        reason=f"; {' and '.join(chosen)} {recipe.reason}",
    )


def _distilled(widgets: RunWidgets) -> bool:
    """Whether the model's weights seem to be distilled, judged by the widgets for schedule and cfg.

    Neither a MODEL nor its file says whether they are.
    """
    # A connected schedule says nothing of the weights, but distilled ones are run without guidance.
    return widgets.cfg == 1 if widgets.sigmas is not None else widgets.schedule != LTXV


def _refines(widgets: RunWidgets) -> bool:
    """Whether the run refines a clip that was sampled before: its schedule begins below noise level 1."""
    if widgets.sigmas is not None:
        return bool(widgets.sigmas[0] < 1)
    return widgets.schedule not in (LTXV, "distilled 8")


def _plain_run(model: Model, latent: Latent, widgets: RunWidgets, denoise: float) -> Run:
    """Prepare a run whose guidance is plain classifier-free guidance; see :func:`plan_run`."""
    settings, sigmas = settings_for(model, widgets), widgets.sigmas
    if sigmas is None:
        sigmas = schedule_sigmas(settings.fixed, widgets.steps, latent, denoise)
    # A scale of 0 would ignore the prompt, so that value is free to mean the scale of the video.
    audio_cfg = widgets.audio_cfg or widgets.cfg
    sampling = HostSampling(cfg=widgets.cfg, audio_cfg=audio_cfg, sampler=settings.sampler)
    return Run(sigmas, sampling, settings.reason)


def _preset_run(model: Model, latent: Latent, widgets: RunWidgets, denoise: float) -> Run:
    """Prepare a run by the chosen preset, with the numbers that its widgets have; see :func:`plan_run`."""
    assert widgets.preset is not None
    chosen, listed, blocks, reason = preset_of(widgets.preset, model)
    sigmas = widgets.sigmas
    if sigmas is None and chosen.schedule == SCHEDULED:
        tokens = video_tokens(latent)
        # With less denoising a scheduler makes a longer schedule, of which these steps are the end; a fixed
        # list can only be cut.
        sigmas = partial_sigmas(
            lambda count: replace(chosen, steps=count).sigmas(tokens), chosen.steps, denoise
        )
    elif sigmas is None:
        sigmas = last_sigmas(chosen.sigmas() if listed is None else listed, denoise)
    guided = GuidedSampling(guidance=chosen.guidance(blocks), sampler=chosen.sampler, eta=chosen.eta)
    return Run(sigmas, guided, reason)


def run_inputs() -> list[io.Input]:
    """Create the widgets of a sampling run: seed, schedule, steps, guidance scales and sampler."""
    return [
        quantity("seed", 0, low=0, control_after_generate=True),
        io.Combo.Input(
            "schedule",
            options=[LTXV, *LISTS, SECOND_STAGE],
            tooltip="LTX-2 scheduler: full model, uses steps. distilled 8: distilled model or LoRA, cfg 1. "
            "second stage, by the model: after the upscaler, cfg 1: 3 steps from 0.909 for 2.0, from 0.85 "
            "from 2.3 on. distilled 3: the list of 2.0 for every model.",
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
            tooltip="by the model: euler, but euler_ancestral in the first stage of distilled LTX-2.5. euler "
            "adds no noise; euler_ancestral adds fresh noise at every step.",
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


def schedule_sigmas(fixed: str | None, steps: int, latent: Latent, denoise: float = 1.0) -> Tensor:
    """The noise levels of the list ``fixed``, a key of ``FIXED_SIGMAS``, or with None of the LTX-2 scheduler.

    The LTX-2 scheduler uses ``steps`` and the size of the video in ``latent``. With ``denoise`` below 1 only
    this last share of the schedule is used: ``steps`` steps in it, or the last steps of a list.
    """
    sigmas: Tensor
    if fixed is None:
        tokens = video_tokens(latent)
        sigmas = partial_sigmas(lambda count: ltxv_sigmas(count, tokens), steps, denoise)
    else:
        # A copy, so that no node can change the published list.
        sigmas = last_sigmas(FIXED_SIGMAS[fixed], denoise).clone()
    return sigmas


def video_tokens(latent: Latent) -> int:
    """Number of video tokens of a LATENT, guide frames included; 4096 for a LATENT of audio only."""
    # The placeholder video of a latent of audio alone says nothing about the size of a clip.
    tokens: int = MANY_TOKENS if latent.get(AUDIO_ONLY) else prod(video_of(latent)["samples"].shape[2:])
    return tokens
