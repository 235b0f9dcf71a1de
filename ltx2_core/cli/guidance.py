"""The sampling options of ``ltx2 generate``: presets, guidance, step cache, and the settings of a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

from ..config import transformer_config
from ..loading import Component
from ..media.writer import read_metadata
from ..run.generation import METADATA_KEY
from ..run.pipeline import LTX2Pipeline
from ..run.request import Request
from ..sampling.caching import StepCache
from ..sampling.guidance import Guidance, Nag, StreamGuidance, stg_blocks_of
from ..sampling.presets import LTXV, PRESETS, Preset
from ..sampling.samplers import SAMPLERS

Command = TypeVar("Command", bound=Callable[..., Any])

SCALES = ("cfg", "stg", "modality", "rescale", "skip_steps")
SHARED = ("cfg_star", "apg_eta", "apg_threshold")
RANGE = ("from_sigma", "to_sigma")


def sampling_options(command: Command) -> Command:
    """Add the options that :func:`read_sampling` takes in."""
    options = [
        click.option("--preset", type=click.Choice(list(PRESETS)), help="Settings to start from."),
        click.option("--cfg", type=float, help="Guidance; 1 is none.  [default: 4]"),
        click.option("--stg", type=float, help="Perturbed self-attention guidance; 0 is none."),
        click.option("--modality", type=float, help="Guidance towards the other stream; 1 is none."),
        click.option("--rescale", type=float, help="Against too much contrast, 0 to 1; 0 is none."),
        click.option("--skip-steps", type=int, help="Steps to skip after each evaluated one; inexact."),
        *(
            click.option(
                f"--audio-{name.replace('_', '-')}",
                type=int if name == "skip_steps" else float,
                help=f"--{name.replace('_', '-')} of the sound, if it differs.",
            )
            for name in SCALES
        ),
        click.option("--stg-blocks", help="Blocks for --stg, such as '28'.  [default: the model's]"),
        click.option("--cfg-star", is_flag=True, default=None, help="Fit the negative estimate first."),
        click.option("--apg-eta", type=float, help="Part of cfg along the estimate that counts; 1 is all."),
        click.option("--apg-threshold", type=float, help="Longest update of cfg; 0 is no limit."),
        click.option("--from-sigma", type=float, help="Guide at this sigma and below.  [default: 1]"),
        click.option("--to-sigma", type=float, help="Guide at this sigma and above.  [default: 0]"),
        click.option("--nag", type=float, help="Negative prompt without cfg; 1 is none, 11 usual."),
        click.option("--nag-alpha", type=float, help="Share of --nag in the result.  [default: 0.25]"),
        click.option("--nag-tau", type=float, help="Bound of --nag.  [default: 2.5]"),
        click.option(
            "--cache", metavar="KIND:THRESHOLD", help="Skip steps: first_block:0.1 or timestep:0.1; inexact."
        ),
        click.option("--sampler", type=click.Choice(list(SAMPLERS)), help="[default: euler]"),
        click.option("--eta", type=float, help="Fresh noise of samplers that add some, 0 to 1."),
        click.option("--stage2-sampler", type=click.Choice(list(SAMPLERS)), help="Of the second stage."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def read_sampling(given: MutableMapping[str, Any], pipeline: LTX2Pipeline) -> dict[str, Any]:
    """The fields of a request that sampling options stand for; they are taken out of ``given``.

    Raises ValueError for options that do not go together.
    """
    preset = PRESETS[given.pop("preset")] if "preset" in given else None
    fields: dict[str, Any] = {} if preset is None else _preset_fields(preset)
    scales = {name: given.pop(name) for name in (*SCALES, *(f"audio_{s}" for s in SCALES)) if name in given}
    shared = {name: given.pop(name) for name in SHARED if name in given}
    window = {name: given.pop(name) for name in RANGE if name in given}
    blocks = _blocks(given.pop("stg_blocks", None), pipeline)
    plain = preset is None and not shared and not window and scales.keys() <= {"cfg", "audio_cfg"}
    if plain:
        fields |= scales
    elif preset is not None or scales or shared or window:
        video = StreamGuidance(cfg=4.0) if preset is None else preset.video
        audio = video if preset is None else preset.audio
        own = {name: scales[name] for name in SCALES if name in scales}
        both = own if preset is None else {}
        heard = both | {name: scales[f"audio_{name}"] for name in SCALES if f"audio_{name}" in scales}
        video, audio = replace(video, **own, **shared), replace(audio, **heard, **shared)
        stg = video.stg or audio.stg
        fields["guidance"] = Guidance(video=video, audio=audio, stg_blocks=blocks if stg else (), **window)
    nag = {name.removeprefix("nag_"): given.pop(name) for name in ("nag_alpha", "nag_tau") if name in given}
    scale = given.pop("nag", None)
    if scale is not None:
        fields["nag"] = Nag(scale=scale, **nag)
    elif nag:
        raise ValueError("--nag-alpha and --nag-tau need --nag: give its scale, such as --nag 11")
    if "cache" in given:
        fields["cache"] = parse_cache(given.pop("cache"))
    return fields


def parse_cache(text: str) -> StepCache:
    """``KIND`` or ``KIND:THRESHOLD``."""
    kind, _, threshold = text.partition(":")
    try:
        options = {"threshold": float(threshold)} if threshold else {}
    except ValueError:
        raise ValueError(f"--cache {text}: {threshold!r} is no number; try first_block:0.1") from None
    return StepCache(kind=kind, **options)  # type: ignore[arg-type]


def settings_of(path: Path) -> dict[str, Any]:
    """The settings that made a file. Raises ValueError for a file without them."""
    tags = read_metadata(path)
    if METADATA_KEY not in tags:
        raise ValueError(f"{path} holds no settings: it was not made by ltx2 generate, or its tags were lost")
    try:
        settings: dict[str, Any] = json.loads(tags[METADATA_KEY])
        settings["request"]["prompt"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"the settings in {path} cannot be read; the file is damaged") from None
    return settings


def repeated_request(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> Request:
    """The request of a file with some fields changed."""
    recorded = {name: value for name, value in settings["request"].items() if name not in changes}
    if changes.keys() & {"cfg", "audio_cfg", "distilled"}:
        recorded.pop("guidance", None)
    if "seconds" in changes:
        recorded.pop("num_frames", None)
    if "num_frames" in changes:
        recorded.pop("seconds", None)
    if "steps" in changes:
        recorded.pop("sigmas", None)
    plain = Request.from_settings(recorded | {"prompt": changes.get("prompt", recorded.get("prompt"))})
    return replace(plain, **changes)


def check_files(settings: Mapping[str, Any], pipeline: LTX2Pipeline, *, given_loras: bool) -> str | None:
    """What differs between the files of a run and those of the settings, for the user to know.

    Raises ValueError if the settings have LoRAs and none are given.
    """
    loras = {kind: settings.get(kind, []) for kind in ("loras", "stage2_loras")}
    if any(loras.values()) and not given_loras:
        names = ", ".join(":".join(map(str, lora)) for kind in loras.values() for lora in kind)
        raise ValueError(f"the file was made with LoRAs, whose folders are not known: give {names} again")
    now = [file.path.name for file in pipeline.networks.checkpoints]
    before = settings.get("checkpoints", now)
    if now == before:
        return None
    return f"made with {', '.join(before)}; this run uses {', '.join(now)}"


def _preset_fields(preset: Preset) -> dict[str, Any]:
    fields: dict[str, Any] = {"sampler": preset.sampler, "eta": preset.eta, "steps": preset.steps}
    if preset.schedule != LTXV:
        fields["sigmas"] = preset.sigmas().tolist()
    return fields


def _blocks(text: str | None, pipeline: LTX2Pipeline) -> tuple[int, ...]:
    if text is None:
        file = pipeline.networks.file(Component.TRANSFORMER)
        return stg_blocks_of(transformer_config(file.config).num_layers, str(file.generation))
    try:
        return tuple(int(word) for word in text.replace(",", " ").split())
    except ValueError:
        raise ValueError(f"--stg-blocks {text!r} must be block numbers between commas, such as 28") from None
