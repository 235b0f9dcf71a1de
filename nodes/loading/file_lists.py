"""The list of files that each loader node offers, and what to download if a list is empty."""

from __future__ import annotations

from pathlib import Path

from ...ltx2_core.loading.detect import Component
from ..host import file_checks, folders
from ..host.file_checks import holds
from ..host.file_list import FileList

SAME = "in ckpt_name"
NONE = "none"
FIXED = (SAME, NONE)

_TRANSFORMER = holds(Component.TRANSFORMER)
_PROJECTION = holds(Component.TEXT_PROJECTION)
_CONNECTORS = holds(Component.TEXT_CONNECTORS)
_SINGLE = "ltx-2-19b-dev or ltx-2.3-22b-dev (or their distilled and fp8 versions) into models/checkpoints"


def _text_or_model(path: Path) -> str:
    """Why ``path`` holds neither a text projection nor a transformer; "" if it holds one of them."""
    problem = _PROJECTION(path)
    # The message is about the projection, which is the smaller download of the two.
    return problem and _TRANSFORMER(path) and problem


def _text_parts(path: Path) -> str:
    """Why ``path`` holds neither a text projection nor text connectors; "" if it holds one of them."""
    problem = _PROJECTION(path)
    return problem and _CONNECTORS(path) and problem


MODELS = FileList(
    what="a model",
    categories=(folders.CHECKPOINTS, folders.DIFFUSION_MODELS, folders.DIFFUSERS),
    problem=_TRANSFORMER,
    download=f"{_SINGLE}, or a transformer file into models/diffusion_models",
)
VIDEO_VAES = FileList(
    what="a video VAE",
    categories=(folders.VAES, folders.CHECKPOINTS, folders.DIFFUSERS),
    problem=holds(Component.VIDEO_ENCODER, Component.VIDEO_DECODER),
    download="LTX2_video_vae_bf16 (2.0) or ltx-2.5-video-vae-conv-bf16 (2.5) into models/vae",
)
AUDIO_VAES = FileList(
    what="an audio VAE",
    categories=(folders.VAES, folders.CHECKPOINTS, folders.DIFFUSERS),
    problem=holds(Component.AUDIO_ENCODER, Component.AUDIO_DECODER, Component.VOCODER),
    download="LTX2_audio_vae_bf16 (2.0) or ltx-2.5-audio-vae-bf16 (2.5) into models/vae",
)
TEXT_PARTS = FileList(
    what="text connectors or text projection",
    categories=(folders.TEXT_ENCODERS,),
    problem=_text_parts,
    download="ltx-2-19b-embeddings_connector_dev_bf16 or _distill_bf16 (2.0), or "
    "ltx-2.3_text_projection_bf16, into models/text_encoders",
)
TEXT_SOURCES = FileList(
    what="a checkpoint for text",
    categories=(folders.CHECKPOINTS, folders.DIFFUSION_MODELS, folders.DIFFUSERS, folders.TEXT_ENCODERS),
    problem=_text_or_model,
    download=f"{_SINGLE}, or ltx-2.3_text_projection_bf16 into models/text_encoders",
)
ENCODERS = FileList(
    what="a text encoder",
    categories=(folders.TEXT_ENCODERS, folders.DIFFUSERS),
    problem=file_checks.encoder_problem,
    list_anyway=file_checks.is_faulty_encoder,
    download="gemma_3_12B_it (bf16, fp8_scaled or fp4_mixed; for 2.5 gemma4-12b-with-proj-ltx-2.5-bf16) into "
    "models/text_encoders",
)
UPSCALERS = FileList(
    what="a latent upscaler",
    categories=(folders.UPSCALERS, folders.DIFFUSERS),
    problem=holds(Component.UPSAMPLER),
    download="ltx-2-spatial-upscaler-x2-1.0 or ltx-2.3-spatial-upscaler-x2-1.1 into "
    "models/latent_upscale_models",
)
DURATION_HEADS = FileList(
    what="a duration head",
    categories=(folders.MODEL_PATCHES,),
    problem=holds(Component.DURATION_HEAD),
    download="ltx-2.5-duration-head-bf16 into models/model_patches",
)
LORAS = FileList(
    what="a LoRA",
    categories=(folders.LORAS,),
    problem=file_checks.lora_problem,
    download="ltx-2-19b-distilled-lora-384 or ltx-2.3-22b-distilled-lora-384 into models/loras",
)


def check(*chosen: tuple[FileList, str | None]) -> bool:
    """Check the files that were chosen in a node, before it runs; returns True, as ``validate_inputs`` must.

    ``chosen`` are pairs of a list and the name that was chosen in it; None, of a linked input, is not
    checked. Raises ValueError for a file that cannot be loaded: ComfyUI displays a raised error once, but a
    returned one for each input.
    """
    for files, name in chosen:
        # Linked inputs arrive as None; the loader checks them when it runs.
        if isinstance(name, str) and name not in FIXED and (refusal := files.refusal(name)):
            raise ValueError(refusal)
    return True
