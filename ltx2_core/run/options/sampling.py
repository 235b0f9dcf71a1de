"""Options of how a clip is sampled: schedule, sampler, guidance of both streams."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from .option import BY_RECIPE, MAX_SCALE, Option

# Written again here, since the registries import torch, which help must not; a test compares them.
SAMPLER_NAMES: Final = (
    "euler",
    "euler_ancestral",
    "euler_cfg_pp",
    "euler_ancestral_cfg_pp",
    "gradient_estimation",
    "dpmpp_2m",
    "res_multistep",
    "res_2s",
)
PRESET_NAMES: Final = ("distilled 8", "distilled 3", "dev 20", "dev 30 guided", "quality res_2s 15")


def sampling_options() -> Iterator[Option]:
    """Schedule, sampler, cache and seed."""
    group = "sampling"
    yield Option(
        name="preset",
        flags=("--preset",),
        kind="choice",
        group=group,
        choices=PRESET_NAMES,
        help="Published sampler, schedule and guidance to start from; further options change them.",
    )
    yield Option(
        name="steps",
        flags=("--steps",),
        kind="int",
        group=group,
        help="Sampling steps of the first stage; more take longer and add detail.",
        range=(1, 10000),
        unit="steps",
        default=BY_RECIPE,
        request=True,
    )
    yield Option(
        name="distilled",
        flags=("--distilled",),
        kind="flag",
        group=group,
        help="For distilled weights or a distilled LoRA: 8 fixed steps without guidance.",
        default=False,
        request=True,
    )
    yield Option(
        name="sigmas",
        flags=("--sigmas",),
        kind="text",
        group=group,
        help="Noise levels of the first stage, such as '1, 0.725, 0.42', in place of --steps; a final 0 is "
        "appended.",
        request=True,
    )
    yield Option(
        name="schedule",
        flags=("--schedule",),
        kind="choice",
        group=group,
        choices=("4096", "clip"),
        help="Tokens that the steps are spread for: 4096 as in the official pipelines, or those of the clip "
        "as in diffusers and ai-toolkit; by default 4096, with --numerics comfy those of the clip.",
        request=True,
    )
    yield Option(
        name="stage2_sigmas",
        flags=("--stage2-sigmas",),
        kind="text",
        group=group,
        help="Noise levels of the second stage.",
        default=None,
        request=True,
    )
    yield Option(
        name="sampler",
        flags=("--sampler",),
        kind="choice",
        group=group,
        choices=SAMPLER_NAMES,
        help="Sampler of the first stage.",
        default=BY_RECIPE,
        request=True,
    )
    yield Option(
        name="eta",
        flags=("--eta",),
        kind="float",
        group=group,
        help="Share of the noise that each step replaces by fresh noise, for samplers that do so; 0 is none.",
        range=(0, 1),
        request=True,
    )
    yield Option(
        name="stage2_sampler",
        flags=("--stage2-sampler",),
        kind="choice",
        group=group,
        choices=SAMPLER_NAMES,
        help="Sampler of the second stage; by default that of an unguided first stage, else euler.",
        request=True,
    )
    yield Option(
        name="cache",
        flags=("--cache",),
        kind="text",
        group=group,
        metavar="KIND:THRESHOLD",
        help="Reuse the network's output over steps that change little: first_block:0.1 or timestep:0.1. "
        "Faster and not exact.",
        request=True,
    )
    yield Option(
        name="tiles",
        flags=("--tiles",),
        kind="text",
        group=group,
        metavar="COLUMNSxROWS",
        help="Compute each step of a large frame in overlapping tiles, such as 2x1.",
        request=True,
    )
    yield Option(
        name="seed",
        flags=("--seed",),
        kind="int",
        group=group,
        help="Seed of the noise; the same seed and settings give the same clip. -1 draws one.",
        range=(-1, 2**64 - 1),
        default=0,
        request=True,
    )


_STREAM_SCALES = (
    ("cfg", "float", (0, MAX_SCALE), "Guidance away from the negative prompt; 1 is off."),
    (
        "stg",
        "float",
        (-MAX_SCALE, MAX_SCALE),
        "Guidance away from a pass with perturbed self-attention; 0 is off.",
    ),
    (
        "modality",
        "float",
        (-MAX_SCALE, MAX_SCALE),
        "Guidance towards agreement of video and audio; 1 is off.",
    ),
    (
        "rescale",
        "float",
        (0, 1),
        "Bring the contrast of the guided estimate back towards that of the unguided one; 0 is off.",
    ),
    (
        "skip_steps",
        "int",
        (0, 10000),
        "Repeat the estimate of an evaluated step in this many steps after it; faster, not exact; 0 is off.",
    ),
)


def guidance_options() -> Iterator[Option]:
    """Options of guidance; those of the audio have the prefix ``audio_``."""
    group = "guidance"
    for stream in ("", "audio_"):
        for name, kind, bounds, words in _STREAM_SCALES:
            dashed = name.replace("_", "-")
            own = stream + name
            yield Option(
                name=own,
                flags=("--" + own.replace("_", "-"),),
                kind=kind,  # type: ignore[arg-type]
                group=group,
                help=f"--{dashed} of the audio, where it differs from the video's." if stream else words,
                range=bounds,
                default=BY_RECIPE if name == "cfg" else None,
                request=name == "cfg",
            )
    yield Option(
        name="stg_blocks",
        flags=("--stg-blocks",),
        kind="text",
        group=group,
        help="Transformer blocks that --stg perturbs, such as '28'; by default those of the checkpoint.",
    )
    yield Option(
        name="cfg_star",
        flags=("--cfg-star",),
        kind="flag",
        group=group,
        help="Scale the negative estimate to fit the conditional one before it is subtracted (CFG-Zero*).",
    )
    yield Option(
        name="apg_eta",
        flags=("--apg-eta",),
        kind="float",
        range=(-MAX_SCALE, MAX_SCALE),
        group=group,
        help="Weight of the part of the --cfg update that is parallel to the estimate (APG); 1 is plain CFG.",
    )
    yield Option(
        name="apg_threshold",
        flags=("--apg-threshold",),
        kind="float",
        group=group,
        help="Limit for the norm of the --cfg update, above which it is scaled down (APG); 0 is no limit.",
        range=(0, 1e6),
    )
    yield Option(
        name="from_sigma",
        flags=("--from-sigma",),
        kind="float",
        group=group,
        help="Guidance is on at this noise level and below; 1 by default.",
        range=(0, 1),
    )
    yield Option(
        name="to_sigma",
        flags=("--to-sigma",),
        kind="float",
        group=group,
        help="Guidance is on at this noise level and above; 0 by default.",
        range=(0, 1),
    )
    yield Option(
        name="nag",
        flags=("--nag",),
        kind="float",
        range=(1, MAX_SCALE),
        group=group,
        help="Normalised attention guidance: avoids the negative prompt without --cfg. 1 is off, 11 usual.",
        request=True,
    )
    yield Option(
        name="nag_alpha",
        flags=("--nag-alpha",),
        kind="float",
        group=group,
        help="Share of the guided attention that --nag mixes in; 0.25 by default.",
        range=(0, 1),
    )
    yield Option(
        name="nag_tau",
        flags=("--nag-tau",),
        kind="float",
        range=(0, MAX_SCALE),
        above=True,
        group=group,
        help="How many times longer --nag may make the output of attention of a token; 2.5 by default.",
    )
