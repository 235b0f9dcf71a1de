"""Checks for options that contradict each other, and for options that have no effect without another one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from types import MappingProxyType
from typing import Any, Final

from .table import by_name, options_of

CONFLICTS: Final[tuple[tuple[str, str, str], ...]] = (
    ("distilled", "steps", "the distilled schedule has 8 fixed steps"),
    ("distilled", "cfg", "distilled weights are sampled without guidance"),
    ("distilled", "audio_cfg", "distilled weights are sampled without guidance"),
    ("distilled", "preset", "a preset decides schedule and guidance itself"),
    ("distilled", "sigmas", "the distilled schedule is fixed"),
    ("sigmas", "steps", "the number of sigmas is the number of steps"),
    ("sigmas", "schedule", "the sigmas are the schedule"),
    ("distilled", "schedule", "the distilled schedule is fixed"),
    ("seeds", "seed", "both set seeds"),
    ("prompts_file", "prompt", "both set prompts"),
    ("prompts_file", "enhance_prompt", "one prompt is rewritten"),
    ("seeds", "from_file", "a file is repeated with one seed"),
    ("shots", "from_file", "both hold the settings of a clip"),
    ("shots", "pipeline_kind", "a shot list is sampled in one or two stages"),
    ("prompts_file", "from_file", "a file is repeated with one prompt"),
    ("seeds", "resume", "one clip is decoded at a time: name its file with -o"),
    ("prompts_file", "resume", "one clip is decoded at a time: name its file with -o"),
    ("seeds", "temporal_upscaler", "the frame rate of one clip at a time is doubled"),
    ("prompts_file", "temporal_upscaler", "the frame rate of one clip at a time is doubled"),
    ("resume", "temporal_upscaler", "saved latents have their frame rate"),
    *(
        ("pipeline_kind", name, "the DFR pipeline decides stages, schedule, samplers and guidance")
        for name in (
            *("stages", "steps", "sigmas", "schedule", "sampler", "eta", "preset", "cfg", "audio_cfg"),
            *("stage2_preset", "stage2_sampler", "stage2_sigmas"),
        )
    ),
    ("pipeline_kind", "references", "the only reference of the DFR pipeline is that of --detail-lora"),
    ("pipeline_kind", "prompts_at", "its tiles have times of their own"),
    ("pipeline_kind", "generated_keyframes", "the DFR pipeline decides the keyframes"),
    ("num_frames", "seconds", "both set the length"),
    ("extend_frames", "extend_seconds", "both set the length to add"),
    ("resume", "dry_run", "nothing is planned when latents are decoded"),
    ("resume", "from_file", "the saved latents have their own settings"),
)
"""Two options that contradict each other, and why."""

REQUIREMENTS: Final[tuple[tuple[str, str], ...]] = (
    ("image_strength", "image"),
    ("stage2_image_strength", "image"),
    ("image_crf", "image"),
    ("fit", "image"),
    ("audio_start_s", "audio"),
    ("audio_noise_db", "audio"),
    ("reference_s", "reference_audio"),
    ("identity", "reference_audio"),
    ("nag_alpha", "nag"),
    ("nag_tau", "nag"),
    ("contact_sheet", "seeds"),
    ("temporal_rounds", "pipeline_kind"),
    ("detail_lora", "pipeline_kind"),
    ("enhancer", "enhance_prompt"),
    ("prompt_fade", "prompts_at"),
    ("prompt_method", "prompts_at"),
)
"""An option that has no effect without another one."""


OF_STAGE_2: Final = ("stage2_sampler", "stage2_sigmas", "stage2_preset", "stage2_loras")
"""Options of the second stage, which have no effect on a run of one stage."""

ALTERNATIVES: Final[dict[str, tuple[str, ...]]] = {
    "image_crf": ("images",),
    "fit": ("images", "references"),
    "contact_sheet": ("prompts_file",),
}
"""An option -> others that give it an effect too."""


def check_stage2(explicit: Set[str], stages: int) -> None:
    """Raise ValueError if options of the second stage were written for a run of one stage.

    ``explicit`` are the names of the options that the user wrote, ``stages`` is the number of stages.
    """
    written = [by_name(name).flag for name in OF_STAGE_2 if name in explicit]
    if stages == 1 and written:
        raise ValueError(f"{written[0]} has no effect on a run of one stage: add --stages 2")


def _check_method(written: Mapping[str, Any], name: Callable[[str], str]) -> None:
    """Raise ValueError for a fade with one text for all parts; ``name`` gives the words for an option."""
    method, fade = written.get("prompt_method", "separate"), by_name("prompt_fade").default
    if method != "separate" and written.get("prompt_fade", fade) != fade:
        raise ValueError(
            f"{name('prompt_fade')} has no effect with {name('prompt_method')} {method}, which has a fade of "
            "its own: leave one out"
        )


def check_keywords(
    named: Mapping[str, Any], present: Set[str], *, held: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Raise ValueError if keywords of a request contradict each other, or one has no effect without another.

    ``named`` are the keywords of the Python call, with their values. ``present`` are the names of all fields
    that have a value in the request. ``held`` are the values of "distilled" and "pipeline_kind" in the
    request that is being changed. A keyword with its default value may lack the keyword that it needs,
    because it changes nothing.
    """
    # None and False are the values of keywords that are left out.
    written = {
        name: value for name, value in {**held, **named}.items() if value is not None and value is not False
    }
    for one, other, reason in CONFLICTS:
        if one in written and other in written:
            raise ValueError(
                f"{_keyword(one, written)} and {_keyword(other, written)} contradict each other, "
                f"as {reason}: leave one out"
            )
    _check_method(written, str)
    for name in OF_STAGE_2:
        if written.get("stages") == 1 and name in written:
            raise ValueError(f"{_keyword(name, written)} has no effect with stages=1: set stages=2")
    for one, needed in REQUIREMENTS:
        options = {needed, *ALTERNATIVES.get(one, ())}
        if one in written and written[one] != by_name(one).default and not options & present:
            raise ValueError(f"{_keyword(one, written)} has no effect without {needed}: set {needed} too")


def _keyword(name: str, written: Mapping[str, Any]) -> str:
    value = written[name]
    return f"{name}={value!r}" if isinstance(value, bool | int | float | str) else name


def check_together(
    explicit: Mapping[str, Any], known: Mapping[str, Any] | None = None, *, command: str
) -> None:
    """Raise ValueError if options of a command line contradict each other, or one lacks another it needs.

    An option that modifies another one needs it to have an effect, written or recorded. ``explicit`` are the
    options that the user wrote, by name, with their values. ``known`` are the settings stored in the file of
    ``--from-file``; None without that option. ``command`` is the subcommand, such as "extend". The message
    names both flags.
    """
    names = {option.name for option in options_of(command)}
    known = known or {}
    # A file of distilled weights stays distilled, so its schedule is as fixed as with the option.
    held = {name: known[name] for name in ("distilled", "pipeline_kind") if known.get(name)}
    written = {**held, **explicit}
    for one, other, reason in CONFLICTS:
        if one in written and other in written:
            raise ValueError(
                f"{by_name(one).flag} and {by_name(other).flag} contradict each other, as {reason}: "
                "leave one out"
            )
    _check_method(explicit, lambda name: by_name(name).flag)
    present = explicit.keys() | set(known)
    for one, needed in REQUIREMENTS:
        options = {needed, *ALTERNATIVES.get(one, ())}
        if one in explicit and needed in names and not options & present:
            raise ValueError(f"{by_name(one).flag} has no effect without {by_name(needed).flag}: add it")
    # In an edit it is the background of the source.
    if command == "generate" and "background" in explicit and not present & {"image", "images", "references"}:
        raise ValueError("--background has no effect without --image: add it")
    if "trigger" in explicit:
        prompts = [str(explicit.get(name) or "") for name in ("prompt", "prompts", "prompts_at")]
        in_file = "prompts_file" in explicit or prompts[1].startswith("@")
        if not in_file and not any("[trigger]" in prompt for prompt in prompts):
            raise ValueError("--trigger has no effect without [trigger] in the prompt: write it there")
