"""The guidance options of the command line as fields of a request: presets, scales of each stream, NAG."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import replace
from typing import Any

from ..config import transformer_config
from ..loading import Component
from ..run.pipeline import LTX2Pipeline
from ..sampling.guidance import Guidance, Nag, StreamGuidance, stg_blocks_of
from ..sampling.presets import LTXV, PRESETS, Preset

SCALES = ("cfg", "stg", "modality", "rescale", "skip_steps")
SHARED = ("cfg_star", "apg_eta", "apg_threshold")
RANGE = ("from_sigma", "to_sigma")


def guidance_fields(explicit: MutableMapping[str, Any], pipeline: LTX2Pipeline) -> dict[str, Any]:
    """The fields of a request that guidance options stand for; they are taken out of ``explicit``.

    Raises ValueError for values out of range, and for steps of a preset whose schedule is fixed.
    """
    preset = PRESETS[explicit.pop("preset")] if "preset" in explicit else None
    fields = {} if preset is None else _preset_fields(preset, explicit)
    scales = _taken(explicit, (*SCALES, *(f"audio_{name}" for name in SCALES)))
    shared, window = _taken(explicit, SHARED), _taken(explicit, RANGE)
    blocks = _blocks(explicit.pop("stg_blocks", None), pipeline)
    plain = preset is None and not shared and not window and scales.keys() <= {"cfg", "audio_cfg"}
    # Scales of cfg alone are fields of the request, so the recipe still chooses the rest.
    if plain:
        fields |= scales
    elif preset is not None or scales or shared or window:
        cfg = pipeline.recipe.cfg
        video = StreamGuidance(cfg=cfg) if preset is None else preset.video
        audio = video if preset is None else preset.audio
        own = {name: scales[name] for name in SCALES if name in scales}
        # Without a preset the audio follows the scales of the video.
        both = own if preset is None else {}
        of_audio = both | {name: scales[f"audio_{name}"] for name in SCALES if f"audio_{name}" in scales}
        video, audio = replace(video, **own, **shared), replace(audio, **of_audio, **shared)
        stg = video.stg or audio.stg
        fields["guidance"] = Guidance(video=video, audio=audio, stg_blocks=blocks if stg else (), **window)
    nag = {
        name.removeprefix("nag_"): value for name, value in _taken(explicit, ("nag_alpha", "nag_tau")).items()
    }
    if "nag" in explicit:
        fields["nag"] = Nag(scale=explicit.pop("nag"), **nag)
    return fields


def _taken(explicit: MutableMapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """The options of some names, taken out of ``explicit``."""
    return {name: explicit.pop(name) for name in names if name in explicit}


def _preset_fields(preset: Preset, explicit: Mapping[str, Any]) -> dict[str, Any]:
    """Sampler and schedule of a preset; options that were written take their place."""
    fields: dict[str, Any] = {"sampler": preset.sampler, "eta": preset.eta, "steps": preset.steps}
    if preset.schedule != LTXV:
        if "steps" in explicit:
            raise ValueError(
                f"--steps and --preset contradict each other, as this preset has {preset.steps} fixed steps: "
                "leave one out"
            )
        fields["sigmas"] = preset.sigmas().tolist()
    if preset.schedule != LTXV or "sigmas" in explicit:
        # The number of sigmas is the number of steps.
        del fields["steps"]
    return {name: value for name, value in fields.items() if name not in explicit}


def _blocks(text: str | None, pipeline: LTX2Pipeline) -> tuple[int, ...]:
    """Block numbers as written, else those that the checkpoint was trained for."""
    if text is None:
        file = pipeline.networks.file(Component.TRANSFORMER)
        return stg_blocks_of(transformer_config(file.config).num_layers, str(file.generation))
    try:
        return tuple(int(word) for word in text.replace(",", " ").split())
    except ValueError:
        raise ValueError(f"--stg-blocks {text!r} must be block numbers between commas, such as 28") from None
