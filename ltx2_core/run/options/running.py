"""Declares the options for model files, for execution (device, memory, kernels) and for several clips."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from .option import Option

DTYPE_NAMES: Final = ("float32", "bfloat16")
ATTENTION_NAMES: Final = ("auto", "pytorch", "cudnn", "flash3", "sage")
"""The values of ``attention.CHOICES``, which is imported with torch."""

_LORA = "FILE[:STRENGTH[:AUDIO_STRENGTH]]"


def model_options() -> Iterator[Option]:
    """Yield the options that name model files and LoRAs."""
    group = "model"
    yield Option(
        name="released",
        flags=("--model",),
        kind="text",
        group=group,
        metavar="NAME",
        help="Released model by its name in ltx2 models list, such as ltx-2.3-distilled: stands for "
        "--checkpoint, --text-encoder, --upscaler and --distilled with the files that ltx2 models get "
        "has downloaded.",
    )
    yield Option(
        name="checkpoints",
        flags=("--checkpoint",),
        kind="path",
        group=group,
        multiple=True,
        help="Model file of LTX-2. If the model is split into several files, repeat the option for each. "
        "Without it the tiny model of the package is used.",
        help_of=(
            (
                "plan",
                "Model file of LTX-2 to plan for. If the model is split into several files, repeat the "
                "option for each. Without it the sizes of a released model are used (see --model).",
            ),
        ),
    )
    yield Option(
        name="text_encoder",
        flags=("--text-encoder",),
        kind="path",
        group=group,
        help="Folder or file (.safetensors, .gguf) of the Gemma text encoder that belongs to the checkpoint: "
        "Gemma 3, for LTX-2.5 its Gemma 4 (no .gguf).",
    )
    yield Option(
        name="upscaler",
        flags=("--upscaler",),
        kind="path",
        group=group,
        help="Model file of the latent upscaler; two stages (--stages 2) need it.",
    )
    yield Option(
        name="video_decoder",
        flags=("--video-decoder",),
        kind="path",
        group=group,
        help="Video VAE file that decodes instead of the checkpoint's own decoder. The diffusion decoder of "
        "LTX-2.5 decodes clips of LTX-2.3 and 2.5.",
    )
    yield Option(
        name="temporal_upscaler",
        flags=("--temporal-upscaler",),
        kind="path",
        group=group,
        help="Model file of a temporal latent upscaler. After sampling it doubles the frame rate of the "
        "clip, such as from 24 to 48; the audio is not changed. --pipeline dfr uses it in each of its "
        "--temporal-rounds.",
    )
    yield Option(
        name="enhancer",
        flags=("--enhancer",),
        kind="path",
        group=group,
        help="Folder or single file of an instruction-tuned Gemma that rewrites the prompt "
        "(--enhance-prompt), such as gemma-4-E2B-it or gemma4_e2b_it_bf16.safetensors. LTX-2.5 needs one; "
        "for earlier generations the text encoder does it.",
    )
    yield Option(
        name="loras",
        flags=("--lora",),
        kind="text",
        group=group,
        multiple=True,
        metavar=_LORA,
        help="LoRA for all stages, as FILE, FILE:STRENGTH or FILE:STRENGTH:AUDIO_STRENGTH, such as "
        "style.safetensors:0.8. STRENGTH is 1 by default; AUDIO_STRENGTH is for the audio layers, by default "
        "STRENGTH. For a distilled LoRA FILE:recipe is its strength in the published graphs: 1 for LTX-2.0, "
        "0.5 from 2.3 on. May be repeated.",
    )
    yield Option(
        name="stage2_loras",
        flags=("--stage2-lora",),
        kind="text",
        group=group,
        multiple=True,
        metavar=_LORA,
        help="LoRA for the second stage only, as FILE, FILE:STRENGTH or FILE:STRENGTH:AUDIO_STRENGTH, such "
        "as distilled.safetensors:0.8. STRENGTH is 1 by default; AUDIO_STRENGTH is for the audio layers, by "
        "default STRENGTH. For a distilled LoRA FILE:recipe is its strength in the published graphs: 1 for "
        "LTX-2.0, 0.5 from 2.3 on. May be repeated.",
    )
    yield Option(
        name="detail_lora",
        flags=("--detail-lora",),
        kind="text",
        group=group,
        metavar=_LORA,
        help="IC-LoRA that adds spatial detail in the second stage of --pipeline dfr, such as "
        "ltx-2.5-ic-lora-pixel-spatial-upscaler-x2. Its reference is the clip of the first stage. Written "
        "like --lora.",
    )
    yield Option(
        name="numerics",
        flags=("--numerics",),
        kind="choice",
        group=group,
        choices=("official", "comfy", "comfy-0.33"),
        default="official",
        help="The implementation whose results are reproduced where the official pipelines and ComfyUI "
        "compute different ones. comfy is ComfyUI 0.27; comfy-0.33 is ComfyUI 0.31 to 0.33, whose audio "
        "differs from that of the trained model.",
    )


def execution_options() -> Iterator[Option]:
    """Yield the options for the device, the number format, memory and kernels."""
    group = "execution"
    yield Option(
        name="device",
        flags=("--device",),
        kind="text",
        group=group,
        help="Device to compute on, such as cuda, cuda:1 or cpu. By default the GPU where there is one, else "
        "cpu.",
    )
    yield Option(
        name="dtype",
        flags=("--dtype",),
        kind="choice",
        group=group,
        choices=DTYPE_NAMES,
        help="Number format of the weights; by default bfloat16 on a GPU, and float32 on the CPU and on "
        "NVIDIA GPUs before Ampere.",
    )
    yield Option(
        name="max_memory",
        flags=("--max-memory",),
        kind="text",
        group=group,
        help="Device memory that the run may use, such as 12GB, or auto for what is free. To stay below it, "
        "tokens are computed in chunks and transformer blocks are copied to the device one after another, "
        "with the same result; frames that do not fit are decoded in tiles. Tiles change the frames slightly "
        "only where ltx2 plan calls them not exact. It shows what a budget means.",
    )
    yield Option(
        name="attention",
        flags=("--attention",),
        kind="choice",
        group=group,
        choices=ATTENTION_NAMES,
        default="auto",
        help="Backend of the transformer's attention. auto: FlashAttention 3 or cuDNN where they work, else "
        "PyTorch's own choice. pytorch, cudnn and flash3 differ in the last digits. sage (the package "
        "sageattention) multiplies rounded queries and keys: faster, and the clip is less precise. ltx2 "
        "doctor lists which work here.",
    )
    yield Option(
        name="passes_per_call",
        flags=("--passes-per-call",),
        kind="int",
        group=group,
        help="How many guidance passes (forward passes of one sampling step, such as for prompt and negative "
        "prompt) are computed as one batch. More is faster on a GPU with free memory.",
        range=(1, 64),
        default=1,
    )
    yield Option(
        name="decoder_seed",
        flags=("--decoder-seed",),
        kind="int",
        group=group,
        help="Seed of the noise from which the diffusion video decoder of LTX-2.5 makes frames. Another seed "
        "changes fine detail; other video decoders use no noise.",
        range=(0, 2**64 - 1),
        default=0,
    )
    yield Option(
        name="decoder_noise",
        flags=("--decoder-noise",),
        kind="choice",
        group=group,
        choices=("auto", "frame", "official", "comfy"),
        default="auto",
        help="How the diffusion video decoder of LTX-2.5 draws its noise. frame: for each frame by itself, "
        "from --decoder-seed, so that latents have the same frames however they are decoded. official: the "
        "generator of the run continues after sampling, as in the official pipelines. comfy: at once for the "
        "clip, from --decoder-seed, as in ComfyUI. auto is comfy with --numerics comfy and comfy-0.33, else "
        "frame.",
    )
    yield Option(
        name="guidance_parallel",
        flags=("--guidance-parallel",),
        kind="int",
        group=group,
        help="For several processes, of torchrun or --ray-group: divide them into this many groups. The "
        "guidance passes of a step are divided among the groups, and the tokens of a pass among the "
        "processes of a group.",
        range=(1, 1024),
        default=1,
    )
    yield Option(
        name="fused",
        flags=("--fused/--no-fused",),
        kind="flag",
        group=group,
        help="Join operations of the transformer into fewer kernels, which is the default on a GPU where "
        "Triton is installed. With --no-fused they are computed one by one; last digits may differ.",
        default=True,
    )
    yield Option(
        name="keep_text_keys",
        flags=("--keep-text-keys",),
        kind="flag",
        group=group,
        help="Compute the attention keys and values of the prompt once and reuse them in all steps. Only "
        "LTX-2.0 can do this; needs 1.2 GB more for each prompt.",
        default=False,
    )
    yield Option(
        name="cuda_graphs",
        flags=("--cuda-graphs",),
        kind="flag",
        group=group,
        help="Record the transformer's blocks as a CUDA graph and replay it, which is faster for short clips "
        "on a GPU.",
        default=False,
    )
    yield Option(
        name="fp8_blocks",
        flags=("--fp8-blocks",),
        kind="flag",
        group=group,
        help="Convert the large layers of all transformer blocks except the first and the last to fp8 while "
        "loading, and multiply in fp8. Needs half the memory and is faster; the result is less precise.",
        default=False,
    )
    yield Option(
        name="fp8_matmul",
        flags=("--fp8-matmul",),
        kind="flag",
        group=group,
        help="For checkpoints that store layers in fp8: also multiply in fp8. Faster, but the inputs of "
        "these layers are rounded. Layers in MXFP8 need a Blackwell GPU and the package comfy-kitchen.",
        default=False,
    )
    yield Option(
        name="nvfp4_matmul",
        flags=("--nvfp4-matmul",),
        kind="flag",
        group=group,
        help="For checkpoints that store layers in NVFP4, on a Blackwell GPU: also multiply in NVFP4. "
        "Faster, but the inputs of these layers are rounded.",
        default=False,
    )
    yield Option(
        name="int8_matmul",
        flags=("--int8-matmul",),
        kind="flag",
        group=group,
        help="For checkpoints that store layers in int8, such as the int8 ConvRot files of LTX-2.5: also "
        "multiply in int8, as ComfyUI does. The inputs of these layers are rounded, to about a hundredth.",
        default=False,
    )


def several_options() -> Iterator[Option]:
    """Yield the options that generate several clips in one call."""
    group = "several"
    yield Option(
        name="prompts_file",
        flags=("--prompts-file",),
        kind="path",
        group=group,
        command="generate",
        help="Text file with one prompt on each line; a clip is generated for each, and the model is loaded "
        "once. Empty lines and lines that begin with # are skipped. With -o OUT.mp4 the files are "
        "OUT_01.mp4, OUT_02.mp4 and so on.",
        help_of=(("batch", "Text file with one prompt on each line; each job is made once for each."),),
    )
    yield Option(
        name="seeds",
        flags=("--seeds",),
        kind="text",
        group=group,
        command="generate",
        metavar="A-B,C,...",
        help="Generate one clip for each of these seeds, such as 1-8 or 1,5,9-12; the model is loaded once. "
        "With -o OUT.mp4 the files are OUT_seed1.mp4 and so on.",
        help_of=(("batch", "Make each job once for each of these seeds, such as 1-8 or 1,5,9-12."),),
    )
    yield Option(
        name="contact_sheet",
        flags=("--contact-sheet",),
        kind="flag",
        group=group,
        command="generate",
        help="With --seeds or --prompts-file: also save an image, OUT_sheet.png, with a few frames of every "
        "clip.",
        help_of=(("batch", "Also save an image, sheet.png, with a few frames of every clip."),),
        default=False,
    )
