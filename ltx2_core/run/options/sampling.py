"""Declares the options for sampling: schedule, sampler, and the guidance of video and audio."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from .option import BY_RECIPE, MAX_SCALE, Option

# Written again here, since the registries import torch, which --help must not; a test compares them.
SAMPLER_NAMES: Final = (
    "euler",
    "euler_ancestral",
    "euler_cfg_pp",
    "euler_ancestral_cfg_pp",
    "gradient_estimation",
    "dpmpp_2m",
    "res_multistep",
    "res_2s",
    "lcm",
)
PRESET_NAMES: Final = (
    *("distilled 8", "distilled 3", "dev 20", "dev 30 guided", "quality res_2s 15"),
    *("distilled 8 ancestral", "distilled 3 ancestral", "text euler 25", "image res_2s 25"),
)
STAGE2_PRESETS: Final = ("distilled 3", "distilled 3 ancestral")
"""The presets that are second stages."""


def sampling_options() -> Iterator[Option]:
    """Yield the options for the schedule, the sampler, the cache, tiles and the seed."""
    group = "sampling"
    yield Option(
        name="preset",
        flags=("--preset",),
        kind="choice",
        group=group,
        choices=PRESET_NAMES,
        help="Start from a published combination of sampler, schedule and guidance; other options replace "
        "single settings of it. The number in a name is the number of steps; names that begin with distilled "
        "are for distilled weights or a distilled LoRA; the two with 25 are those of the guide of LTX-Video.",
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
        help="Sample with 8 fixed steps and no guidance, for a distilled checkpoint or a distilled LoRA.",
        default=False,
        request=True,
    )
    yield Option(
        name="sigmas",
        flags=("--sigmas",),
        kind="text",
        group=group,
        help="Noise levels of the first stage from 1 (noise) downwards, such as '1, 0.725, 0.42', in place "
        "of --steps. A final 0 is appended if it is missing.",
        request=True,
    )
    yield Option(
        name="schedule",
        flags=("--schedule",),
        kind="choice",
        group=group,
        choices=("4096", "clip"),
        help="Number of tokens for which the noise levels of the steps are computed: 4096 always, like the "
        "official pipelines, or clip for the number of tokens of this clip, like diffusers and ai-toolkit. "
        "By default 4096; clip with --numerics comfy.",
        request=True,
    )
    yield Option(
        name="stage2_sigmas",
        flags=("--stage2-sigmas",),
        kind="text",
        group=group,
        help="Noise levels of the second stage, falling, such as '0.9, 0.7, 0.4'. A final 0 is appended if "
        "it is missing. By default those published for the second stage.",
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
        help="Share of the noise that is replaced by fresh noise in each step, for samplers that add noise; "
        "0 adds none. By default what is usual for the sampler.",
        range=(0, 1),
        request=True,
    )
    yield Option(
        name="stage2_sampler",
        flags=("--stage2-sampler",),
        kind="choice",
        group=group,
        choices=SAMPLER_NAMES,
        help="Sampler of the second stage. By default the sampler of the first stage if the first stage has "
        "no guidance, else euler.",
        request=True,
    )
    yield Option(
        name="stage2_preset",
        flags=("--stage2-preset",),
        kind="choice",
        group=group,
        choices=STAGE2_PRESETS,
        help="Sampler and noise levels of the second stage as published: distilled 3 is that of the official "
        "pipelines, distilled 3 ancestral that of the ComfyUI templates for LTX-2.5. --stage2-sampler and "
        "--stage2-sigmas replace single settings of it.",
    )
    yield Option(
        name="cache",
        flags=("--cache",),
        kind="text",
        group=group,
        metavar="KIND:THRESHOLD",
        help="Skip the network in steps in which its result would hardly change, and reuse the last result. "
        "The value is KIND:THRESHOLD or KIND, such as first_block:0.1. KIND says what is compared with the "
        "last step that ran the whole network: first_block compares what its first block adds, which "
        "depends on the content and is computed in every step; timestep compares only the noise level, which "
        "takes no time. A higher THRESHOLD (0.1 by default) skips more. Faster, but the result differs.",
        request=True,
    )
    yield Option(
        name="tiles",
        flags=("--tiles",),
        kind="text",
        group=group,
        metavar="COLUMNSxROWS",
        help="Divide large frames into overlapping tiles and compute each sampling step tile by tile. The "
        "value is COLUMNSxROWS: 2x1 is a left and a right half, 1x2 an upper and a lower one.",
        request=True,
    )
    yield Option(
        name="seed",
        flags=("--seed",),
        kind="int",
        group=group,
        help="Seed of the noise; the same seed and settings give the same clip. -1 draws a random seed.",
        range=(-1, 2**64 - 1),
        default=0,
        request=True,
    )


_STREAM_SCALES = (
    (
        "cfg",
        "float",
        (0, MAX_SCALE),
        "Strength of classifier-free guidance, away from the negative prompt; 1 is off.",
    ),
    (
        "stg",
        "float",
        (-MAX_SCALE, MAX_SCALE),
        "Strength of spatio-temporal guidance (STG), away from a forward pass in which the self-attention of "
        "some blocks is perturbed; 0 is off.",
    ),
    (
        "modality",
        "float",
        (-MAX_SCALE, MAX_SCALE),
        "Strength of guidance that makes video and audio agree, away from a forward pass in which neither "
        "sees the other; 1 is off.",
    ),
    (
        "rescale",
        "float",
        (0, 1),
        "How far the contrast (standard deviation) of the guided estimate is brought back to that of the "
        "unguided one: 1 fully; 0 is off.",
    ),
    (
        "skip_steps",
        "int",
        (0, 10000),
        "After each sampling step that is computed, reuse its estimate for this many further steps; faster, "
        "not exact; 0 is off.",
    ),
)


def guidance_options() -> Iterator[Option]:
    """Yield the options for guidance; those for the audio have the prefix ``audio_`` in their names."""
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
                help=f"For the audio: {words[0].lower()}{words[1:]} By default that of --preset; without a "
                f"preset the value of --{dashed} if it is written, else the default of the checkpoint."
                if stream
                else words,
                range=bounds,
                default=BY_RECIPE if name == "cfg" else None,
                request=name == "cfg",
            )
    yield Option(
        name="stg_blocks",
        flags=("--stg-blocks",),
        kind="text",
        group=group,
        help="Numbers of the transformer blocks that --stg perturbs, counted from 0 and separated by "
        "commas, such as '28' or '14,19'; by default those recommended for the checkpoint.",
    )
    yield Option(
        name="cfg_star",
        flags=("--cfg-star",),
        kind="flag",
        group=group,
        help="Scale the estimate for the negative prompt to fit the estimate for the prompt before --cfg "
        "takes their difference (CFG-Zero*).",
    )
    yield Option(
        name="apg_eta",
        flags=("--apg-eta",),
        kind="float",
        range=(-MAX_SCALE, MAX_SCALE),
        group=group,
        help="Adaptive projected guidance (APG): weight of the part of the --cfg correction that is "
        "parallel to the estimate; 1 is plain --cfg.",
    )
    yield Option(
        name="apg_threshold",
        flags=("--apg-threshold",),
        kind="float",
        group=group,
        help="Adaptive projected guidance (APG): largest norm of the --cfg correction, which is scaled down "
        "to it; 0 is no limit.",
        range=(0, 1e6),
    )
    yield Option(
        name="from_sigma",
        flags=("--from-sigma",),
        kind="float",
        group=group,
        help="Guidance starts at this noise level: it is off in steps with a higher one; 1 is from the first "
        "step on.",
        range=(0, 1),
    )
    yield Option(
        name="to_sigma",
        flags=("--to-sigma",),
        kind="float",
        group=group,
        help="Guidance ends at this noise level: it is off in steps with a lower one; 0 is until the last "
        "step.",
        range=(0, 1),
    )
    yield Option(
        name="nag",
        flags=("--nag",),
        kind="float",
        range=(1, MAX_SCALE),
        group=group,
        help="Strength of normalised attention guidance, which avoids the negative prompt without a second "
        "forward pass, also where --cfg is 1. 1 is off, 11 is usual.",
        request=True,
    )
    yield Option(
        name="nag_alpha",
        flags=("--nag-alpha",),
        kind="float",
        group=group,
        help="Share of the guided attention output that --nag mixes into the unguided one; 0.25 by default.",
        range=(0, 1),
    )
    yield Option(
        name="nag_tau",
        flags=("--nag-tau",),
        kind="float",
        range=(0, MAX_SCALE),
        above=True,
        group=group,
        help="Limit for --nag: the norm of a token's attention output may grow to at most this many times "
        "the norm without it; 2.5 by default.",
    )
