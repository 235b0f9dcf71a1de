"""Sampling presets as a choice whose numbers are widgets of their own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ...ltx2_core.sampling.presets import LTXV as SCHEDULED
from ...ltx2_core.sampling.presets import PRESETS, Preset
from ...ltx2_core.sampling.samplers import SAMPLERS, STOCHASTIC
from ...ltx2_core.sampling.schedules import parse_sigmas
from .guidance import SCALES, blocks_input, parse_blocks, scale_input

BY_HAND = "as above"
SHAPE = {
    "max_shift": (100.0, "shift towards noise at 4096 video tokens."),
    "base_shift": (100.0, "shift towards noise at 1024 video tokens."),
    "terminal": (0.99, "noise level before the last step."),
}
"""Highest value and meaning of what shapes a schedule with steps."""


def preset_input() -> io.Input:
    """A choice that shows the numbers of the chosen preset, to be changed at will."""
    options = [io.DynamicCombo.Option(BY_HAND, [])]
    options += [io.DynamicCombo.Option(name, _numbers(preset)) for name, preset in PRESETS.items()]
    return io.DynamicCombo.Input(
        "preset",
        options=options,
        optional=True,
        tooltip="as above: schedule, steps, cfg, audio_cfg and sampler count. A preset takes the place of "
        "all of these with the numbers that it shows, which can be changed.",
    )


def preset_of(values: dict[str, Any], model: Any) -> tuple[Preset, Tensor | None, tuple[int, ...]]:
    """The preset with the numbers of its widgets, its list of sigmas if one is written, its blocks of stg."""
    preset = PRESETS[values["preset"]]
    streams = {}
    for stream in ("video", "audio"):
        scales = {name: values[f"{stream}_{name}"] for name in SCALES if f"{stream}_{name}" in values}
        streams[stream] = replace(getattr(preset, stream), **scales)
    sampler = values.get("sampler", preset.sampler)
    own = {name: values[name] for name in ("steps", *SHAPE) if values.get(name) is not None}
    eta = values.get("eta") if sampler in STOCHASTIC else None
    chosen = replace(preset, sampler=sampler, eta=eta, **own, **streams)
    listed = parse_sigmas(values["sigmas"]) if values.get("sigmas") else None
    return chosen, listed, parse_blocks(values.get("stg_blocks", ""), model)


def _numbers(preset: Preset) -> list[io.Input]:
    inputs: list[io.Input] = []
    if preset.schedule == SCHEDULED:
        inputs.append(
            io.Int.Input("steps", default=preset.steps, min=1, max=10000, tooltip="Sampling steps.")
        )
    inputs.append(
        io.Combo.Input(
            "sampler", options=list(SAMPLERS), default=preset.sampler, tooltip="See LTX-2 Sampler."
        )
    )
    inputs.append(
        io.Float.Input(
            "eta",
            default=STOCHASTIC.get(preset.sampler, 1.0) if preset.eta is None else preset.eta,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Fresh noise of the samplers that add some.",
        )
    )
    for stream in ("video", "audio"):
        inputs += [scale_input(name, getattr(getattr(preset, stream), name), stream) for name in SCALES]
    return [*inputs, blocks_input(), *_schedule(preset)]


def _schedule(preset: Preset) -> list[io.Input]:
    """The numbers of the schedule besides its steps."""
    if preset.schedule != SCHEDULED:
        text = ", ".join(f"{sigma:g}" for sigma in preset.sigmas().tolist())
        tooltip = "The noise levels from step to step, falling to 0; the published list by default."
        return [io.String.Input("sigmas", default=text, optional=True, tooltip=tooltip)]
    return [
        io.Float.Input(
            name,
            default=getattr(preset, name),
            min=0.0,
            max=high,
            step=0.01,
            optional=True,
            tooltip=f"See LTX-2 Scheduler: {meaning}",
        )
        for name, (high, meaning) in SHAPE.items()
    ]
