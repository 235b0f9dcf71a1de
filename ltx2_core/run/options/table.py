"""All options in one tuple, and which of them each command takes."""

from __future__ import annotations

from typing import Final

from ..recipes import RECIPES
from .content import inputs_options, size_options
from .editing import edits_options, plans_options, windows_options
from .option import GROUPS, Option
from .output import output_options
from .prompts import text_options
from .running import execution_options, model_options, several_options
from .sampling import guidance_options, sampling_options
from .serving import batch_options, serving_options, workers_options

OPTIONS: Final[tuple[Option, ...]] = (
    *text_options(),
    *edits_options(),
    *windows_options(),
    *size_options(),
    *inputs_options(),
    *sampling_options(),
    *guidance_options(),
    *model_options(),
    *execution_options(),
    *several_options(),
    *output_options(),
    *plans_options(),
    *batch_options(),
    *serving_options(),
    *workers_options(),
)

BY_NAME: Final[dict[str, Option]] = {option.name: option for option in OPTIONS}

_SHARED = ("sampling", "guidance", "model", "execution", "output")

COMMANDS: Final[dict[str, tuple[str, ...]]] = {
    "generate": ("text", "size", "inputs", *_SHARED, "several"),
    "extend": ("source", "edit", "text", *_SHARED),
    "retake": ("source", "edit", "text", *_SHARED),
    "sound": ("source", "edit", "text", *_SHARED),
    "dub": ("source", "text", "model", "execution", "output"),
    "hdr": ("source", "text", "model", "execution", "output"),
    "interpolate": ("source", "model", "execution", "output"),
    "long": ("text", "source", "window", "size", "inputs", *_SHARED),
    "plan": ("size", "model", "execution", "output"),
    "batch": ("batch", "workers", "execution"),
    "serve": ("server", "limits", "workers", "execution"),
}
"""Command -> the groups of options that it has."""

_OUTPUT = tuple(option.name for option in output_options())
_TWO_STAGES = (
    *("stages", "stage2_loras", "stage2_preset", "stage2_sampler", "stage2_sigmas", "upscaler"),
    "stage2_image_strength",
)

_SDR: Final = {"hdr": "only ltx2 generate, ltx2 retake and ltx2 hdr make HDR clips"}
_AS_WRITTEN: Final = dict.fromkeys(
    ("enhance_prompt", "enhancer"), "only ltx2 generate rewrites prompts, and others take them as written"
)

_OF_GENERATE: Final = {
    **dict.fromkeys(
        ("pipeline_kind", "temporal_rounds", "detail_lora"), "only ltx2 generate has the DFR pipeline"
    ),
    "generated_keyframes": "only ltx2 generate generates keyframes",
}
_ONE_TEXT: Final = dict.fromkeys(
    ("prompts_at", "prompt_fade", "prompt_method"), "only ltx2 generate changes the prompt within one run"
)
_NO_SHOTS: Final = {"shots": "only ltx2 generate and ltx2 long read shot lists"}
_NO_DETAIL: Final = {"detail_lora": "only ltx2 generate has the DFR pipeline"}

WITHOUT: Final[dict[str, dict[str, str]]] = {
    "extend": {
        **_SDR,
        **_NO_DETAIL,
        **_NO_SHOTS,
        **_ONE_TEXT,
        **_AS_WRITTEN,
        "temporal_upscaler": "the clip has the frame rate of its source",
    },
    "retake": {
        **_NO_DETAIL,
        **_NO_SHOTS,
        **_ONE_TEXT,
        **_AS_WRITTEN,
        "temporal_upscaler": "the clip has the frame rate of its source",
    },
    "sound": {
        **_SDR,
        **_NO_DETAIL,
        **_NO_SHOTS,
        **_ONE_TEXT,
        **_AS_WRITTEN,
        "temporal_upscaler": "the frames of the source are not changed",
        **dict.fromkeys(_TWO_STAGES[1:], "audio is sampled in one stage"),
        **dict.fromkeys(
            ("feather", "exact_outside", "decoder_seed", "decoder_noise"),
            "the frames of the source are not changed",
        ),
    },
    "dub": {
        **_SDR,
        **_NO_DETAIL,
        **_NO_SHOTS,
        **_ONE_TEXT,
        **_AS_WRITTEN,
        "temporal_upscaler": "the clip has the frame rate of its source",
        "stage2_loras": "both stages have the LoRA of Dub-It",
        "negative_prompt": "a dub is sampled without guidance",
        **dict.fromkeys(("passes_per_call", "guidance_parallel"), "a dub is sampled without guidance"),
    },
    "hdr": {
        **_NO_DETAIL,
        **_NO_SHOTS,
        **_ONE_TEXT,
        **_AS_WRITTEN,
        "temporal_upscaler": "the clip has the frame rate of its source",
        "stage2_loras": "both stages have the HDR IC-LoRA",
        "negative_prompt": "it is sampled without guidance",
        **dict.fromkeys(("passes_per_call", "guidance_parallel"), "it is sampled without guidance"),
    },
    "interpolate": {
        "hdr": "an SDR video stays SDR",
        **_NO_DETAIL,
        **dict.fromkeys(
            (
                *("text_encoder", "upscaler", "enhancer", "loras", "stage2_loras", "numerics", "resume"),
                *("attention", "passes_per_call", "guidance_parallel", "fused", "keep_text_keys"),
                "cuda_graphs",
                *("fp8_blocks", "fp8_matmul", "nvfp4_matmul", "int8_matmul"),
            ),
            "nothing is sampled",
        ),
        "max_memory": "its memory does not depend on the length, and --dry-run shows it",
        "audio_bitrate": "audio is copied as it is",
    },
    "long": {
        **_SDR,
        **_OF_GENERATE,
        **_ONE_TEXT,
        **_AS_WRITTEN,
        **dict.fromkeys(_TWO_STAGES, "a window is sampled in one stage"),
        "temporal_upscaler": "windows have one frame rate",
        "decoder_noise": "the frames of a long clip have noise of their own",
        "prompt": "--prompts has all prompts of the clip",
        "references": "--video is the control video of a long clip",
    },
    "plan": {
        "released": "ltx2 plan knows the sizes of released models",
        **dict.fromkeys(
            (
                *(
                    "upscaler",
                    "temporal_upscaler",
                    "enhancer",
                    "loras",
                    "stage2_loras",
                    "numerics",
                    "max_memory",
                    "device",
                    "guidance_parallel",
                    "decoder_seed",
                    "decoder_noise",
                ),
                *(
                    "attention",
                    "fused",
                    "keep_text_keys",
                    "cuda_graphs",
                    "fp8_matmul",
                    "nvfp4_matmul",
                    "int8_matmul",
                    "fp8_blocks",
                ),
                *_OUTPUT,
            ),
            "a plan runs nothing",
        ),
    },
}
"""Command -> the options that it lacks although they are in its groups, each with the reason."""
# An edit has its size and images from the source, so that of those groups only these options remain.
_ALSO: Final[dict[str, tuple[str, ...]]] = {
    "extend": ("stages", "background", "reference_audio", "reference_s", "identity"),
    "retake": ("stages", "background", "reference_audio", "reference_s", "identity"),
    "sound": ("background", "reference_audio", "reference_s", "identity"),
    "interpolate": ("background",),
    "batch": (
        *("released", "checkpoints", "text_encoder", "upscaler", "video_decoder"),
        *("seeds", "prompts_file", "contact_sheet"),
    ),
    "dub": ("background", "seed", "tiles"),
    "hdr": ("background", "seed", "tiles"),
}


def by_name(name: str) -> Option:
    """Return the option whose ``name`` field is ``name``; raises KeyError if there is none."""
    return BY_NAME[name]


def options_of(command: str) -> tuple[Option, ...]:
    """Return the options of the subcommand ``command``, such as "generate", ordered by group."""
    groups, without, also = COMMANDS[command], WITHOUT.get(command, {}), _ALSO.get(command, ())
    chosen = [
        option
        for option in OPTIONS
        if option.name in also
        or (option.group in groups and option.name not in without and option.command in (None, command))
    ]
    return tuple(sorted(chosen, key=lambda option: list(GROUPS).index(option.group)))


def _recipe_rows() -> tuple[tuple[str, ...], ...]:
    """The table of recipes (default settings of each kind of checkpoint) for the docs, as text.

    The first tuple is the header, each other one a recipe.
    """
    names = (
        "sampler",
        "steps",
        "cfg",
        "audio_cfg",
        "stg",
        "modality",
        "rescale",
        "image_strength",
        "stage2_image_strength",
        "image_crf",
        "width",
        "height",
        "num_frames",
        "fps",
        "stages",
    )
    rows = [
        (recipe.name, *(str(getattr(recipe, name)) for name in names), recipe.sigmas or "ltx-2")
        for recipe in RECIPES
    ]
    return (("recipe", *names, "schedule"), *rows)


RECIPE_ROWS: Final = _recipe_rows()
"""The recipes as texts, for the reference."""
