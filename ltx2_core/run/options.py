"""The one table of options: every quantity that a run can be told, declared once.

The command line, the JSON schema of a request and the reference of the docs are made from it, and nodes take
bounds and tooltips from it. No torch is imported here, so that help and shell completion are quick.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Literal, TypeAlias

from .recipes import RECIPES, recipe_for

Kind: TypeAlias = Literal["int", "float", "text", "path", "flag", "choice"]


class ByRecipe(Enum):
    """The default of an option that the checkpoint decides."""

    BY_RECIPE = "by the recipe of the checkpoint"


BY_RECIPE: Final = ByRecipe.BY_RECIPE

GROUPS: Final[dict[str, str]] = {
    "text": "Text",
    "source": "Source",
    "edit": "Edit",
    "window": "Windows",
    "size": "Size and length",
    "inputs": "Image and audio inputs",
    "sampling": "Sampling",
    "guidance": "Guidance",
    "model": "Model files",
    "execution": "Execution",
    "output": "Output",
}
"""Group -> its heading, in the order of the help."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option.

    Attributes:
        name: unique; the keyword of the Python call where there is one.
        flags: as written on the command line.
        group: a key of ``GROUPS``.
        range: lowest and highest value, None where there is no bound.
        unit: such as "pixels"; empty for plain numbers and text.
        default: None for off or absent.
        command: the only command that has it, for options of one command.
        request: whether it is a field of ``Request``.
    """

    name: str
    flags: tuple[str, ...]
    kind: Kind
    group: str
    help: str
    range: tuple[float | None, float | None] = (None, None)
    unit: str = ""
    default: Any = None
    choices: tuple[str, ...] = ()
    multiple: bool = False
    metavar: str | None = None
    command: str | None = None
    request: bool = False
    required: bool = False

    @property
    def flag(self) -> str:
        """The long flag, for messages."""
        return next(flag for flag in self.flags if flag.startswith("--"))

    @property
    def by_recipe(self) -> bool:
        """Whether the recipe of the checkpoint decides the default."""
        return self.default is BY_RECIPE

    def default_text(self) -> str:
        """What holds where the option is absent, "" for nothing."""
        if self.default is BY_RECIPE:
            released, tiny = (getattr(recipe_for(name), self.name) for name in ("2.3", "tiny"))
            if not isinstance(released, int | float):
                return str(BY_RECIPE.value) if len(str(released)) > 20 else str(released)
            return f"{released:g}" if released == tiny else f"{released:g}; tiny set {tiny:g}"
        if self.default is None or isinstance(self.default, bool):
            return ""
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)


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
DTYPE_NAMES: Final = ("float32", "bfloat16")

_LORA = "FILE[:STRENGTH[:AUDIO_STRENGTH]]"


def _text() -> Iterable[Option]:
    group = "text"
    yield Option(
        name="prompt",
        flags=("--prompt",),
        kind="text",
        group=group,
        help="What the clip shows and what is heard.",
        request=True,
    )
    yield Option(
        name="negative_prompt",
        flags=("--negative",),
        kind="text",
        group=group,
        help="What to avoid; used with --cfg above 1 and with --nag.",
        default=BY_RECIPE,
        request=True,
    )
    yield Option(
        name="trigger",
        flags=("--trigger",),
        kind="text",
        group=group,
        help="Word of a LoRA, which replaces [trigger] in both prompts.",
    )
    yield Option(
        name="from_file",
        flags=("--from-file",),
        kind="path",
        group=group,
        command="generate",
        help="Repeat the settings in the tags of this MP4; further options change them. LoRAs and model files "
        "have to be named again.",
    )


def _size() -> Iterable[Option]:
    group = "size"
    for name in ("width", "height"):
        yield Option(
            name=name,
            flags=(f"--{name}",),
            kind="int",
            group=group,
            help=f"{name.capitalize()} of the clip; a multiple of 32, of 64 with two stages.",
            range=(1, None),
            unit="pixels",
            default=BY_RECIPE,
            request=True,
        )
    yield Option(
        name="num_frames",
        flags=("--frames",),
        kind="int",
        group=group,
        help="Length of the clip, 8k + 1 frames.",
        range=(1, None),
        unit="frames",
        default=BY_RECIPE,
        request=True,
    )
    yield Option(
        name="seconds",
        flags=("--seconds",),
        kind="float",
        group=group,
        help="Length of the clip in seconds, in place of --frames.",
        range=(0, None),
        unit="s",
        request=True,
    )
    yield Option(
        name="fps",
        flags=("--fps",),
        kind="float",
        group=group,
        help="Frames per second of the clip.",
        range=(0, None),
        unit="1/s",
        default=BY_RECIPE,
        request=True,
    )
    yield Option(
        name="snap",
        flags=("--snap",),
        kind="choice",
        group=group,
        help="What to do with a size or length that the latent grid does not hold.",
        choices=("floor", "nearest", "ceil", "error"),
        default="nearest",
        request=True,
    )
    yield Option(
        name="stages",
        flags=("--stages",),
        kind="int",
        group=group,
        help="1: at full size. 2: at half size first, then upscaled and refined, which needs --upscaler.",
        range=(1, 2),
        default=BY_RECIPE,
        request=True,
    )


def _inputs() -> Iterable[Option]:
    group = "inputs"
    yield Option(
        name="image",
        flags=("--image",),
        kind="path",
        group=group,
        help="Image that becomes the first frame.",
        request=True,
    )
    yield Option(
        name="image_strength",
        flags=("--image-strength",),
        kind="float",
        group=group,
        help="How much of the image is preserved: 1 all of it, 0 nothing.",
        range=(0, 1),
        default=1.0,
        request=True,
    )
    yield Option(
        name="image_crf",
        flags=("--image-crf",),
        kind="int",
        group=group,
        help="H.264 compression of the image before it is encoded, as in the training data; 0 is off.",
        range=(0, 51),
        default=BY_RECIPE,
        request=True,
    )
    yield Option(
        name="images",
        flags=("--keyframe",),
        kind="text",
        group=group,
        multiple=True,
        metavar="FILE@FRAME[:STRENGTH]",
        help="Image that guides the clip at a frame; -1 is the last one. May be repeated.",
        request=True,
    )
    yield Option(
        name="references",
        flags=("--control",),
        kind="text",
        group=group,
        multiple=True,
        metavar="FILE[:STRENGTH]",
        help="Control or reference video of an IC-LoRA, as long as the clip. May be repeated.",
        request=True,
    )
    yield Option(
        name="audio",
        flags=("--audio",),
        kind="path",
        group=group,
        help="Audio file, or video with audio, that becomes the audio of the clip.",
        request=True,
    )
    yield Option(
        name="audio_start_s",
        flags=("--audio-start",),
        kind="float",
        group=group,
        help="Where in --audio the clip begins, in seconds.",
        range=(0, None),
        unit="s",
        default=0.0,
        request=True,
    )
    yield Option(
        name="audio_noise_db",
        flags=("--audio-noise-db",),
        kind="float",
        group=group,
        help="Add noise of this loudness, such as -60, to the encoded --audio; the saved audio stays clean.",
        range=(None, 0),
        unit="dB",
        request=True,
    )
    yield Option(
        name="reference_audio",
        flags=("--reference-audio",),
        kind="path",
        group=group,
        help="Audio whose voice or sound the generated audio imitates, for LoRAs trained for it.",
        request=True,
    )
    yield Option(
        name="reference_s",
        flags=("--reference-seconds",),
        kind="float",
        group=group,
        help="How many seconds of --reference-audio are used.",
        range=(0, None),
        unit="s",
        default=5.0,
        request=True,
    )
    yield Option(
        name="identity",
        flags=("--identity",),
        kind="float",
        group=group,
        help="Guidance scale towards --reference-audio; 0 is off. Costs one more guidance pass a step.",
        range=(0, None),
        default=3.0,
        request=True,
    )


def _sampling() -> Iterable[Option]:
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
        help="Sampling steps of the first stage; more take longer and refine.",
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
        help="Noise levels of the first stage, such as '1, 0.725, 0.42, 0', in place of --steps.",
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
        help="Share of fresh noise, for samplers that add noise at each step.",
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
        help="Seed of the noise; the same seed and settings give the same clip.",
        range=(0, 2**64 - 1),
        default=0,
        request=True,
    )


_STREAM_SCALES = (
    ("cfg", "float", (0, None), "Guidance away from the negative prompt; 1 is off."),
    ("stg", "float", (None, None), "Guidance away from a pass with perturbed self-attention; 0 is off."),
    ("modality", "float", (None, None), "Guidance towards agreement of video and audio; 1 is off."),
    (
        "rescale",
        "float",
        (0, 1),
        "Bring the contrast of a guided estimate back towards the unguided one; 0 is off.",
    ),
    (
        "skip_steps",
        "int",
        (0, None),
        "Reuse the guided estimate for this many steps; faster, not exact; 0 is off.",
    ),
)


def _guidance() -> Iterable[Option]:
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
                range=bounds,  # type: ignore[arg-type]
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
        group=group,
        help="Part of the --cfg update along the estimate that is preserved (APG); 1 is all of it.",
    )
    yield Option(
        name="apg_threshold",
        flags=("--apg-threshold",),
        kind="float",
        group=group,
        help="Largest norm of the --cfg update (APG); 0 is no limit.",
        range=(0, None),
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
        group=group,
        help="Largest growth of the attention's norm with --nag; 2.5 by default.",
    )


def _model() -> Iterable[Option]:
    group = "model"
    yield Option(
        name="checkpoints",
        flags=("--checkpoint",),
        kind="path",
        group=group,
        multiple=True,
        help="Model file; repeat it for split files. Without one the tiny set of the package is used.",
    )
    yield Option(
        name="text_encoder",
        flags=("--text-encoder",),
        kind="path",
        group=group,
        help="Folder or file of the Gemma text encoder.",
    )
    yield Option(
        name="upscaler",
        flags=("--upscaler",),
        kind="path",
        group=group,
        help="Latent upscaler file, for two stages.",
    )
    yield Option(
        name="loras",
        flags=("--lora",),
        kind="text",
        group=group,
        multiple=True,
        metavar=_LORA,
        help="LoRA for all stages. May be repeated.",
    )
    yield Option(
        name="stage2_loras",
        flags=("--stage2-lora",),
        kind="text",
        group=group,
        multiple=True,
        metavar=_LORA,
        help="LoRA for the second stage only. May be repeated.",
    )
    yield Option(
        name="numerics",
        flags=("--numerics",),
        kind="choice",
        group=group,
        choices=("official", "comfy"),
        default="official",
        help="Whose result to give where the public implementations differ.",
    )


def _execution() -> Iterable[Option]:
    group = "execution"
    yield Option(
        name="device",
        flags=("--device",),
        kind="text",
        group=group,
        help="cuda, cuda:1, cpu and so on; by default cuda where there is a GPU.",
    )
    yield Option(
        name="dtype",
        flags=("--dtype",),
        kind="choice",
        group=group,
        choices=DTYPE_NAMES,
        help="Number format of the weights; by default bfloat16 on cuda, else float32.",
    )
    yield Option(
        name="max_memory",
        flags=("--max-memory",),
        kind="text",
        group=group,
        help="Memory of the device that the run may use, such as 12GB, or auto for what is free: tokens are "
        "computed in chunks and blocks copied when they are needed, with the same result; a frame whose "
        "decoder does not fit is decoded in tiles, exact where there is room for their borders. See ltx2 plan.",
    )
    yield Option(
        name="passes_per_call",
        flags=("--passes-per-call",),
        kind="int",
        group=group,
        help="Guidance passes that one forward pass of the network evaluates.",
        range=(1, None),
        default=1,
    )
    yield Option(
        name="guidance_parallel",
        flags=("--guidance-parallel",),
        kind="int",
        group=group,
        help="Under torchrun: groups of processes that share the guidance passes; each group shares the tokens.",
        range=(1, None),
        default=1,
    )
    yield Option(
        name="fused",
        flags=("--fused",),
        kind="flag",
        group=group,
        help="Compute several elementwise operations in one kernel; faster on a GPU.",
        default=False,
    )
    yield Option(
        name="keep_text_keys",
        flags=("--keep-text-keys",),
        kind="flag",
        group=group,
        help="Cache keys and values of the text for the whole run (LTX-2.0): 1.2 GB more a prompt.",
        default=False,
    )
    yield Option(
        name="cuda_graphs",
        flags=("--cuda-graphs",),
        kind="flag",
        group=group,
        help="Replay the blocks of short clips in one launch.",
        default=False,
    )
    yield Option(
        name="fp8_blocks",
        flags=("--fp8-blocks",),
        kind="flag",
        group=group,
        help="Hold all blocks but the first and the last in fp8 and multiply them in fp8: half the memory, "
        "rounded.",
        default=False,
    )
    yield Option(
        name="fp8_matmul",
        flags=("--fp8-matmul",),
        kind="flag",
        group=group,
        help="Multiply layers stored in fp8 in fp8: faster, rounds their input.",
        default=False,
    )
    yield Option(
        name="nvfp4_matmul",
        flags=("--nvfp4-matmul",),
        kind="flag",
        group=group,
        help="Multiply layers stored in NVFP4 in NVFP4, on Blackwell: faster, rounds their input.",
        default=False,
    )


def _output() -> Iterable[Option]:
    group = "output"
    yield Option(
        name="output",
        flags=("-o", "--output"),
        kind="path",
        group=group,
        help="The MP4 to write.",
        default="ltx2.mp4",
    )
    yield Option(
        name="resume",
        flags=("--resume",),
        kind="flag",
        group=group,
        help="Decode what an earlier run had sampled when it failed: that of --output, or the last one. "
        "ltx2 long continues with its finished windows, with the same options.",
        default=False,
    )
    yield Option(
        name="dry_run",
        flags=("--dry-run",),
        kind="flag",
        group=group,
        help="Print sizes, tokens, sigmas, the recipe and predicted memory, and stop.",
        default=False,
    )
    yield Option(
        name="quiet",
        flags=("-q", "--quiet"),
        kind="flag",
        group=group,
        help="No progress bar.",
        default=False,
    )


def _edits() -> Iterable[Option]:
    yield Option(
        name="source",
        flags=("--video",),
        kind="path",
        group="source",
        help="The video to edit; for ltx2 long a control video or reference of an IC-LoRA.",
    )
    yield Option(
        name="extend_seconds",
        flags=("--seconds",),
        kind="float",
        group="edit",
        command="extend",
        help="Length to add, in seconds.",
        range=(0, None),
        unit="s",
    )
    yield Option(
        name="extend_frames",
        flags=("--frames",),
        kind="int",
        group="edit",
        command="extend",
        help="Length to add, in frames.",
        range=(1, None),
        unit="frames",
    )
    yield Option(
        name="keep_frames",
        flags=("--keep-frames",),
        kind="int",
        group="edit",
        command="extend",
        help="Last frames of the source that the new ones continue, 8k + 1.",
        range=(1, None),
        unit="frames",
        default=25,
    )
    for stream in ("video", "audio"):
        yield Option(
            name=f"{stream}_region",
            flags=(f"--{stream}-region",),
            kind="text",
            group="edit",
            command="retake",
            help=f"Seconds of the {stream} to regenerate, such as '2-4, 5.5-6'.",
            default="",
        )
    yield Option(
        name="rounding",
        flags=("--rounding",),
        kind="choice",
        group="edit",
        command="retake",
        choices=("inside", "cover", "touch"),
        default="cover",
        help="Latent frames that a region takes: those inside it, all that it covers in part, or also those "
        "that it touches.",
    )
    yield Option(
        name="paste",
        flags=("--paste/--no-paste",),
        kind="flag",
        group="edit",
        command="retake",
        default=True,
        help="Put the source's own frames back outside the regions.",
    )
    yield Option(
        name="sound_seconds",
        flags=("--seconds",),
        kind="float",
        group="edit",
        command="sound",
        help="Without a video: length of the audio in seconds, saved as WAV.",
        range=(0, None),
        unit="s",
    )
    yield Option(
        name="ceiling_db",
        flags=("--ceiling-db",),
        kind="float",
        group="edit",
        command="sound",
        help="Loudest sample of the generated audio, in dB of full scale.",
        range=(None, 0),
        unit="dB",
        default=-1.0,
    )


def _windows() -> Iterable[Option]:
    group, command = "window", "long"
    yield Option(
        name="prompts",
        flags=("--prompts",),
        kind="text",
        group="text",
        command=command,
        required=True,
        help="One prompt; lines 'seconds: prompt'; JSON; or @FILE that holds one of these.",
    )
    yield Option(
        name="window_frames",
        flags=("--window-frames",),
        kind="int",
        group=group,
        command=command,
        help="Length of a window, 8k + 1 frames.",
        range=(9, None),
        unit="frames",
        default=121,
    )
    yield Option(
        name="overlap_frames",
        flags=("--overlap-frames",),
        kind="int",
        group=group,
        command=command,
        help="Frames that two windows share, 8k.",
        range=(8, None),
        unit="frames",
        default=24,
    )
    yield Option(
        name="overlap_strength",
        flags=("--overlap-strength",),
        kind="float",
        group=group,
        command=command,
        help="How much of the overlap is preserved in the next window: 1 all of it.",
        range=(0, 1),
        default=1.0,
    )
    yield Option(
        name="adain",
        flags=("--adain",),
        kind="float",
        group=group,
        command=command,
        help="How far colours and contrast of each window return to those of the first; 0 is off.",
        range=(0, 1),
        default=0.0,
    )
    yield Option(
        name="source_strength",
        flags=("--reference",),
        kind="float",
        group=group,
        command=command,
        help="Strength of --video as a reference; 0 is off.",
        range=(0, 1),
        default=1.0,
    )
    yield Option(
        name="denoise",
        flags=("--denoise",),
        kind="float",
        group=group,
        command=command,
        help="Part of the schedule that is sampled: below 1 each window starts from --video.",
        range=(0, 1),
        default=1.0,
        request=True,
    )
    yield Option(
        name="state",
        flags=("--state",),
        kind="path",
        group=group,
        command=command,
        help="Folder that keeps finished windows; the same command continues a stopped clip.",
    )


def _plans() -> Iterable[Option]:
    group, command = "model", "plan"
    yield Option(
        name="budgets",
        flags=("--max-memory",),
        kind="text",
        group="execution",
        command=command,
        multiple=True,
        help="Budget such as 12GB, or auto for what the GPU has free; repeat to compare. By default auto where "
        "there is a GPU, else 8, 12, 16, 24, 32 and 80 GB.",
    )
    yield Option(
        name="model",
        flags=("--model",),
        kind="choice",
        group=group,
        command=command,
        choices=("2.0", "2.3"),
        default="2.3",
        help="Released model to plan for, where no --checkpoint is named.",
    )
    yield Option(
        name="stored",
        flags=("--stored",),
        kind="choice",
        group=group,
        command=command,
        choices=("bf16", "fp8"),
        default="bf16",
        help="Number format in which its blocks are stored.",
    )
    yield Option(
        name="picture",
        flags=("--picture",),
        kind="path",
        group="output",
        command=command,
        help="Draw the plans into this PNG.",
    )


OPTIONS: Final[tuple[Option, ...]] = (
    *_text(),
    *_edits(),
    *_windows(),
    *_size(),
    *_inputs(),
    *_sampling(),
    *_guidance(),
    *_model(),
    *_execution(),
    *_output(),
    *_plans(),
)

BY_NAME: Final[dict[str, Option]] = {option.name: option for option in OPTIONS}

_SHARED = ("sampling", "guidance", "model", "execution", "output")

COMMANDS: Final[dict[str, tuple[str, ...]]] = {
    "generate": ("text", "size", "inputs", *_SHARED),
    "extend": ("source", "edit", "text", *_SHARED),
    "retake": ("source", "edit", "text", *_SHARED),
    "sound": ("source", "edit", "text", *_SHARED),
    "long": ("text", "source", "window", "size", "inputs", *_SHARED),
    "plan": ("size", "model", "execution", "output"),
}
"""Command -> the groups of options that it has."""

# Where the source of an edit decides the length, or nothing is sampled, an option of the group has no meaning.
_WITHOUT: Final[dict[str, frozenset[str]]] = {
    "generate": frozenset(),
    "extend": frozenset({"dry_run"}),
    "retake": frozenset({"dry_run"}),
    "sound": frozenset({"dry_run", "stage2_loras", "stage2_sampler", "stage2_sigmas"}),
    "long": frozenset(
        {
            "dry_run",
            "prompt",
            "stages",
            "images",
            "references",
            "stage2_loras",
            "stage2_sampler",
            "stage2_sigmas",
            "upscaler",
        }
    ),
    "plan": frozenset(
        {
            "upscaler",
            "loras",
            "stage2_loras",
            "numerics",
            "max_memory",
            "device",
            "guidance_parallel",
            "fused",
            "keep_text_keys",
            "cuda_graphs",
            "fp8_matmul",
            "nvfp4_matmul",
            "fp8_blocks",
            "output",
            "resume",
            "dry_run",
            "quiet",
        }
    ),
}
_ALSO: Final[dict[str, tuple[str, ...]]] = {
    "extend": ("stages", "reference_audio", "reference_s", "identity"),
    "retake": ("stages", "reference_audio", "reference_s", "identity"),
    "sound": ("reference_audio", "reference_s", "identity"),
}


def by_name(name: str) -> Option:
    """The option of a name. Raises KeyError where there is none."""
    return BY_NAME[name]


def options_of(command: str) -> tuple[Option, ...]:
    """The options of a command, group after group."""
    groups, without, also = COMMANDS[command], _WITHOUT[command], _ALSO.get(command, ())
    chosen = [
        option
        for option in OPTIONS
        if option.name in also
        or (option.group in groups and option.name not in without and option.command in (None, command))
    ]
    return tuple(sorted(chosen, key=lambda option: list(GROUPS).index(option.group)))


CONFLICTS: Final[tuple[tuple[str, str, str], ...]] = (
    ("distilled", "steps", "the distilled schedule has 8 fixed steps"),
    ("distilled", "cfg", "distilled weights are sampled without guidance"),
    ("distilled", "audio_cfg", "distilled weights are sampled without guidance"),
    ("distilled", "preset", "a preset decides schedule and guidance itself"),
    ("distilled", "sigmas", "the distilled schedule is fixed"),
    ("sigmas", "steps", "the number of sigmas is the number of steps"),
    ("num_frames", "seconds", "the length must be given once"),
    ("extend_frames", "extend_seconds", "the length to add must be given once"),
    ("resume", "dry_run", "nothing is planned when latents are decoded"),
    ("resume", "from_file", "the saved latents have their own settings"),
)
"""Two options that contradict each other, and why."""

REQUIREMENTS: Final[tuple[tuple[str, str], ...]] = (
    ("image_strength", "image"),
    ("image_crf", "image"),
    ("audio_start_s", "audio"),
    ("audio_noise_db", "audio"),
    ("reference_s", "reference_audio"),
    ("identity", "reference_audio"),
    ("nag_alpha", "nag"),
    ("nag_tau", "nag"),
)
"""An option that has no effect without another one."""


def check_together(explicit: Mapping[str, Any], known: Iterable[str] = (), *, command: str) -> None:
    """Raise ValueError, with both flags named, for options that contradict each other.

    ``explicit`` are the options that were written, ``known`` further ones that a file's settings have.
    """
    names = {option.name for option in options_of(command)}
    for one, other, reason in CONFLICTS:
        if one in explicit and other in explicit:
            raise ValueError(
                f"{by_name(one).flag} and {by_name(other).flag} contradict each other, as {reason}: leave one out"
            )
    present = explicit.keys() | set(known)
    for one, needed in REQUIREMENTS:
        if one in explicit and needed in names and needed not in present:
            raise ValueError(f"{by_name(one).flag} has no effect without {by_name(needed).flag}: add it")
    if "trigger" in explicit:
        prompts = [str(explicit.get(name) or "") for name in ("prompt", "negative_prompt", "prompts")]
        if not any("[trigger]" in prompt for prompt in prompts):
            raise ValueError(
                "--trigger has no effect without [trigger] in --prompt or --negative: write it there"
            )


def _recipe_rows() -> tuple[tuple[str, ...], ...]:
    """A header, and one row of texts for each recipe."""
    names = (
        "sampler",
        "steps",
        "cfg",
        "audio_cfg",
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
