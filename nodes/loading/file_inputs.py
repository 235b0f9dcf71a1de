"""Inputs and outputs that the nodes for loading share: choices of files, and outputs of a checkpoint."""

from __future__ import annotations

from comfy_api.latest import io

from ..host.file_list import FileList
from ..host.model import load_host_model, load_model, load_model_as_host
from . import file_lists
from .file_lists import NONE, SAME

OURS = "LTX-2"
NETWORKS = {OURS: load_model, "ComfyUI": load_host_model, "LTX-2, as this ComfyUI": load_model_as_host}
"""Choices of the widget ``network``."""


def combo(name: str, files: FileList, tooltip: str, *fixed: str, optional: bool = False) -> io.Input:
    """Create the input ``name``: a choice between the values ``fixed`` and the files in ``files``.

    The values ``fixed`` come first; the first of them is the default of an ``optional`` input.
    """
    default = fixed[0] if optional else None
    # An empty list could not say what to download: its placeholder does, when it is chosen.
    options = [*fixed, *files.names()] or [files.placeholder]
    return io.Combo.Input(name, options=options, tooltip=tooltip, optional=optional, default=default)


def model_input() -> io.Input:
    return combo(
        "ckpt_name",
        file_lists.MODELS,
        "LTX-2 checkpoint in models/checkpoints, transformer file in models/diffusion_models, or folder in "
        "models/diffusers. Only what can be loaded is listed: LTX-2 Inspect File says why a file is not.",
    )


def part_inputs() -> list[io.Input]:
    """The inputs for the files that a split model has in addition to that of the transformer.

    They are the last inputs and optional, because older workflows lack them.
    """
    return [
        combo(
            "video_vae",
            file_lists.VIDEO_VAES,
            "Where the video VAE is, if not in ckpt_name: a file in models/vae. The diffusion VAE of LTX-2.5 "
            "also decodes clips of 2.3.",
            SAME,
            NONE,
            optional=True,
        ),
        combo(
            "audio_vae",
            file_lists.AUDIO_VAES,
            "Where the audio VAE with its vocoder is, if not in ckpt_name: a file in models/vae.",
            SAME,
            NONE,
            optional=True,
        ),
        combo(
            "text_parts",
            file_lists.TEXT_PARTS,
            "Where text connectors and projection are, if not in ckpt_name: a file in models/text_encoders.",
            SAME,
            optional=True,
        ),
    ]


def network_input() -> io.Input:
    """Create the widget for the transformer's implementation: this pack's network, or ComfyUI's own.

    Both load the same weights. It is the last input of a node and optional, because older workflows lack it.
    """
    return io.Combo.Input(
        "network",
        options=list(NETWORKS),
        default=OURS,
        optional=True,
        tooltip="LTX-2: the network of this pack, for Speed, Spatial Tiles and less memory. ComfyUI: the "
        "host's own network from the same file, for nodes of other packs that LTX-2 refuses, and for the "
        "results of ComfyUI's own loader in this version. LTX-2, as this ComfyUI: the network of this pack, "
        "computed as the installed version does; from 0.31 on its audio differs from that of the trained "
        "model.",
    )


def text_encoder_input() -> io.Input:
    return combo(
        "text_encoder",
        file_lists.ENCODERS,
        "Gemma 3 12B (for LTX-2.5 its Gemma 4) in models/text_encoders: one file in bf16, fp8_scaled or "
        "fp4_mixed, or a folder with config.json, tokenizer and weights, which appears by its first file.",
    )


def checkpoint_outputs() -> list[io.Output]:
    return [
        io.Model.Output(display_name="model", tooltip="The transformer, for sampling."),
        io.Vae.Output(display_name="video_vae", tooltip="Encodes and decodes video frames."),
        io.Vae.Output(display_name="audio_vae", tooltip="Encodes and decodes audio."),
    ]
