"""Sampling presets as a choice in a node; the numbers of the chosen preset are widgets to be changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from comfy_api.latest import io
from torch import Tensor

from ...ltx2_core.run.recipe_guidance import preset_of as of_recipe
from ...ltx2_core.sampling.guidance import StreamGuidance
from ...ltx2_core.sampling.presets import LTXV as SCHEDULED
from ...ltx2_core.sampling.presets import PRESETS, Preset
from ...ltx2_core.sampling.samplers import SAMPLERS, STOCHASTIC
from ...ltx2_core.sampling.schedules import parse_sigmas
from ..host.recipe import recipe_of_model
from ..host.values import Model
from ..inputs import AS_ABOVE, LEFT_TO_MODEL, shift_input, steps_input
from ..quantity import quantity
from .guidance import SCALES, blocks_input, parse_blocks, scale_input

SHAPE = {
    "max_shift": (100.0, "shift towards noise at 4096 video tokens."),
    "base_shift": (100.0, "shift towards noise at 1024 video tokens."),
    "terminal": (0.99, "noise level before the last step."),
}
"""Name of each parameter of a computed schedule, except the number of steps -> (maximum, tooltip)."""


class ChosenPreset(NamedTuple):
    """The preset of a sampling run: schedule, steps, sampler and guidance scales.

    A preset that was chosen by its name has the numbers in its widgets. With the choice "by the model" the
    numbers come from the model's recipe, the table of default settings of its generation; ``reason`` then
    names that recipe for reports, and is empty otherwise. ``sigmas`` are the noise levels in the preset's
    widget; None if it is empty or there is none, and the preset's own schedule is used. ``stg_blocks`` are
    the numbers of the blocks that spatio-temporal guidance (stg) perturbs.
    """

    preset: Preset
    sigmas: Tensor | None
    stg_blocks: tuple[int, ...]
    reason: str = ""


def preset_input() -> io.Input:
    """Create the choice of presets; each has widgets for its numbers, which can be changed."""
    options = [io.DynamicCombo.Option(AS_ABOVE, [])]
    options += [io.DynamicCombo.Option(name, _numbers(preset)) for name, preset in PRESETS.items()]
    options.append(io.DynamicCombo.Option(LEFT_TO_MODEL, []))
    return io.DynamicCombo.Input(
        "preset",
        options=options,
        optional=True,
        tooltip="as above: schedule, steps, cfg, audio_cfg and sampler are used. A preset replaces all of "
        "them with the numbers below it, which can be changed; by the model with those of the full (not "
        "distilled) weights of its generation.",
    )


def preset_of(values: Mapping[str, Any], model: Model) -> ChosenPreset:
    """Return the sampling settings that the widget "preset" and the widgets below it describe.

    ``values`` maps the names of the widgets of :func:`preset_input` to their values. With the choice "by the
    model" the generation of ``model`` decides all settings; otherwise it decides only which block
    spatio-temporal guidance perturbs, if the widget for that is empty.
    """
    if values["preset"] == LEFT_TO_MODEL:
        recipe = recipe_of_model(model)
        return ChosenPreset(of_recipe(recipe), None, parse_blocks("", model), f"; preset {recipe.reason}")
    preset = PRESETS[values["preset"]]
    sampler = values.get("sampler", preset.sampler)
    # Workflows that were saved before a widget existed lack its value and get that of the preset.
    numbers = {name: values[name] for name in ("steps", *SHAPE) if values.get(name) is not None}
    chosen = replace(
        preset,
        sampler=sampler,
        # Another sampler may have been chosen in the widgets, for which the eta of the preset has no meaning.
        eta=values.get("eta") if sampler in STOCHASTIC else None,
        video=_with_scales(preset.video, "video", values),
        audio=_with_scales(preset.audio, "audio", values),
        **numbers,
    )
    # The widget is a text, in which an empty field means the published list.
    sigmas = parse_sigmas(values["sigmas"]) if values.get("sigmas") else None
    return ChosenPreset(chosen, sigmas, parse_blocks(values.get("stg_blocks", ""), model))


def _with_scales(guidance: StreamGuidance, stream: str, values: Mapping[str, Any]) -> StreamGuidance:
    """A copy of ``guidance`` with the scales in the widgets of ``stream``, "video" or "audio".

    ``values`` maps names of widgets to values.
    """
    scales = {name: values[f"{stream}_{name}"] for name in SCALES if f"{stream}_{name}" in values}
    return replace(guidance, **scales)


def _numbers(preset: Preset) -> list[io.Input]:
    """Create the widgets of a preset, whose defaults are its numbers."""
    inputs: list[io.Input] = []
    if preset.schedule == SCHEDULED:
        inputs.append(steps_input(default=preset.steps))
    inputs.append(
        io.Combo.Input(
            "sampler", options=list(SAMPLERS), default=preset.sampler, tooltip="See LTX-2 Sampler."
        )
    )
    # A deterministic preset gets a usual value too, since its sampler widget may be changed to one that adds
    # noise.
    eta = STOCHASTIC.get(preset.sampler, 1.0) if preset.eta is None else preset.eta
    inputs.append(quantity("eta", eta, step=0.01))
    for stream in ("video", "audio"):
        inputs += [scale_input(name, getattr(getattr(preset, stream), name), stream) for name in SCALES]
    return [*inputs, blocks_input(), *_schedule(preset)]


def _schedule(preset: Preset) -> list[io.Input]:
    """Create the widgets for the shape of a preset's schedule; the number of steps is another widget."""
    if preset.schedule != SCHEDULED:
        text = ", ".join(f"{sigma:g}" for sigma in preset.sigmas().tolist())
        tooltip = "The noise level of each step, falling to 0; the published list by default."
        return [io.String.Input("sigmas", default=text, optional=True, tooltip=tooltip)]
    return [
        shift_input(name, getattr(preset, name), f"See LTX-2 Scheduler: {meaning}", high=high, optional=True)
        for name, (high, meaning) in SHAPE.items()
    ]
