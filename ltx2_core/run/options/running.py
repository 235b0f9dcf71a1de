"""Options of model files, of the execution and of several clips."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from .option import Option

DTYPE_NAMES: Final = ("float32", "bfloat16")

_LORA = "FILE[:STRENGTH[:AUDIO_STRENGTH]]"


def model_options() -> Iterator[Option]:
    """Options that name model files and LoRAs."""
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
        help="LoRA for all stages, with its strength (default 1). May be repeated.",
    )
    yield Option(
        name="stage2_loras",
        flags=("--stage2-lora",),
        kind="text",
        group=group,
        multiple=True,
        metavar=_LORA,
        help="LoRA for the second stage only, with its strength (default 1). May be repeated.",
    )
    yield Option(
        name="numerics",
        flags=("--numerics",),
        kind="choice",
        group=group,
        choices=("official", "comfy"),
        default="official",
        help="Implementation to agree with where the official pipelines and ComfyUI differ.",
    )


def execution_options() -> Iterator[Option]:
    """Device, number format, memory and kernels."""
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
        "decoder does not fit is decoded in tiles, exact where their borders fit. See ltx2 plan.",
    )
    yield Option(
        name="passes_per_call",
        flags=("--passes-per-call",),
        kind="int",
        group=group,
        help="Guidance passes that one forward pass of the network evaluates as a batch; more are faster "
        "on a GPU with free memory.",
        range=(1, 64),
        default=1,
    )
    yield Option(
        name="guidance_parallel",
        flags=("--guidance-parallel",),
        kind="int",
        group=group,
        help="Under torchrun: groups of processes among which the guidance passes are divided; the processes "
        "of a group share the tokens.",
        range=(1, 1024),
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
        help="Replay the blocks of short clips as one CUDA graph, which saves the launches of their kernels.",
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
        help="Compute layers that a file stores in fp8 by products in fp8: faster, but rounds their inputs.",
        default=False,
    )
    yield Option(
        name="nvfp4_matmul",
        flags=("--nvfp4-matmul",),
        kind="flag",
        group=group,
        help="Compute layers that a file stores in NVFP4 by products in NVFP4, on Blackwell: faster, but "
        "rounds their inputs.",
        default=False,
    )


def several_options() -> Iterator[Option]:
    """Options of several clips in one call."""
    group = "several"
    yield Option(
        name="prompts_file",
        flags=("--prompts-file",),
        kind="path",
        group=group,
        command="generate",
        help="Text file with a prompt on each line: a clip of each is generated with one load of the model, as "
        "OUT_01.mp4, OUT_02.mp4 and so on. Empty lines and lines that begin with # are left out.",
    )
    yield Option(
        name="seeds",
        flags=("--seeds",),
        kind="text",
        group=group,
        command="generate",
        metavar="A-B,C,...",
        help="A clip of each seed with one load of the model, such as 1-8 or 1,5,9, as OUT_seed1.mp4 and so on.",
    )
    yield Option(
        name="contact_sheet",
        flags=("--contact-sheet",),
        kind="flag",
        group=group,
        command="generate",
        help="With several clips: also draw frames of each into OUT_sheet.png.",
        default=False,
    )
