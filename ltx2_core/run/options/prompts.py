"""Declares the options for the prompts of a clip."""

from __future__ import annotations

from collections.abc import Iterator

from .option import BY_RECIPE, MAX_SECONDS, Option


def text_options() -> Iterator[Option]:
    """Yield the options for the prompts."""
    group = "text"
    yield Option(
        name="prompt",
        flags=("--prompt",),
        kind="text",
        group=group,
        help="Description of the clip, of its video and its audio.",
        request=True,
    )
    yield Option(
        name="negative_prompt",
        flags=("--negative",),
        kind="text",
        empty=True,
        group=group,
        help="What the clip should not contain. It has an effect only where --cfg or --audio-cfg is not 1, "
        "with --nag, and with samplers whose name contains cfg_pp.",
        default=BY_RECIPE,
        request=True,
    )
    yield Option(
        name="trigger",
        flags=("--trigger",),
        kind="text",
        group=group,
        help="Trigger word of a LoRA. It replaces the text [trigger] wherever that stands in the prompt; the "
        "negative prompt is not changed.",
        request=True,
    )
    yield Option(
        name="prompts_at",
        flags=("--prompts-at",),
        kind="text",
        group=group,
        metavar="TIMES",
        help="Prompts for parts of the clip, in addition to --prompt, which holds for all of it, such as "
        "'0: it rolls; 2.5: it stops'. A part lasts until the next one begins; times are seconds, 0:30 or "
        "50%. Texts between | share the clip evenly. Each frame and each moment of the audio attends only to "
        "the prompt of its time.",
        request=True,
    )
    yield Option(
        name="prompt_fade",
        flags=("--prompt-fade",),
        kind="float",
        group=group,
        help="Seconds around the beginning of a part of --prompts-at in which its prompt and the one before "
        "are mixed; 0 changes at once.",
        range=(0, MAX_SECONDS),
        unit="s",
        default=0.3,
        request=True,
    )
    yield Option(
        name="prompt_method",
        flags=("--prompt-method",),
        kind="choice",
        group=group,
        choices=("separate", "relay", "relay_wdc"),
        default="separate",
        help="How the parts of --prompts-at are read. separate encodes each by itself, and frames and "
        "audio of a part attend to its text alone. relay encodes one text with all parts and draws each "
        "moment to the words of its part, as Prompt Relay does; relay_wdc does so with the narrower times of "
        "the pack WhatDreamsCost.",
        request=True,
    )
    yield Option(
        name="shots",
        flags=("--shots",),
        kind="path",
        group=group,
        help="Shot list (JSON, ltx2.shots/1): prompts by time, images, control videos, audio, size and LoRAs "
        "in one file. Options on the command line replace single values of it. ltx2 shots checks it, and "
        "makes one of a timeline of LTX Director or a prompt of Wan2GP.",
    )
    yield Option(
        name="enhance_prompt",
        flags=("--enhance-prompt",),
        kind="flag",
        group=group,
        help="Have a language model rewrite the prompt to a full caption before the clip is sampled: the "
        "text encoder, or for LTX-2.5 the Gemma of --enhancer. It sees the first image if its files have the "
        "part of Gemma that reads images; else it is only told that there is one. The file of the clip "
        "records the result.",
        default=False,
    )
    yield Option(
        name="from_file",
        flags=("--from-file",),
        kind="path",
        group=group,
        help="Repeat the run that made this file, with the settings stored in the file's tags; other options "
        "on the command line replace single settings. Input files must still exist, unchanged; LoRAs and "
        "model files have to be named again.",
    )
