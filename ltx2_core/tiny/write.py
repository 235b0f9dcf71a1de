"""Writing of a complete tiny model set in the released layouts, sorted into ComfyUI's model folders."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

import torch
from torch import Tensor

from .. import config as cfg
from ..loading.components import build
from ..loading.detect import OFFICIAL_PREFIXES, Component
from ..loading.sections import SECTION
from ..storage.files import JsonObject, ParsedJson
from ..storage.writing import write_tensors
from ..types import Numerics
from .settings import (
    TEXT_LAYERS,
    TEXT_WIDTH,
    TinyGeneration,
    tiny_config,
    tiny_duration_config,
    tiny_upsampler_config,
)
from .weights import random_tensor, random_weights, stored_transforms

LORA_RANK = 4
TYPICAL_SECONDS = 6.0
"""Roughly the seconds that the duration head of a tiny set, which has random weights, predicts."""


@dataclass(frozen=True)
class TinySet:
    """Paths of the files of a tiny model set, and of the folder of its text encoder."""

    checkpoint: Path
    text_encoder: Path
    upsampler: Path
    lora: Path
    """A LoRA with random weights. The trained set has ``distilled`` and ``edges`` instead."""
    duration_head: Path | None = None
    """The network that predicts the length of a clip; None except for sets of LTX-2.5."""
    temporal_upsampler: Path | None = None
    """The latent upscaler that doubles the frame rate; None except for sets of LTX-2.5."""

    @property
    def distilled(self) -> Path:
        """Path of the distilled LoRA of a trained set, with which few steps without guidance suffice."""
        return self.lora.with_name("ltx2-tiny-distilled-lora.safetensors")

    @property
    def edges(self) -> Path:
        """Path of the IC-LoRA of a trained set, for control videos of edges."""
        return self.lora.with_name("ltx2-tiny-edges-ic-lora.safetensors")

    @property
    def video_vae(self) -> Path:
        """Path of the diffusion video VAE of a set of LTX-2.5, for ``--video-decoder``."""
        return self.checkpoint.parents[1] / "vae" / "ltx2-tiny-2.5-video-vae.safetensors"

    @classmethod
    def in_folder(cls, folder: Path, generation: TinyGeneration = "2.3") -> TinySet:
        """The paths of a set of a model ``generation`` in ``folder``, as ``write_tiny_set`` names them."""
        return cls(
            folder / "checkpoints" / f"ltx2-tiny-{generation}.safetensors",
            folder / "text_encoders" / _ENCODERS.get(generation, "gemma-tiny"),
            folder / "latent_upscale_models" / "ltx2-tiny-spatial-upscaler-x2.safetensors",
            folder / "loras" / "ltx2-tiny-lora.safetensors",
            folder / "model_patches" / "ltx2-tiny-duration-head.safetensors" if generation == "2.5" else None,
            folder / "latent_upscale_models" / "ltx2-tiny-temporal-upscaler-x2.safetensors"
            if generation == "2.5"
            else None,
        )


_ENCODERS = {"2.5": "gemma4-tiny", "ltxv-2b": "t5-tiny"}


def write_tiny_set(
    folder: str | os.PathLike[str],
    *,
    generation: TinyGeneration = "2.3",
    seed: int = 0,
    dtype: torch.dtype = torch.bfloat16,
) -> TinySet:
    """Write checkpoint, text encoder, upscaler and LoRA, a few megabytes, into subfolders of ``folder``.

    A set of LTX-2.5 has a duration head and a temporal upscaler too. The same seed gives the same tensors.
    Files are written to a temporary folder and then moved, so that an interruption leaves no incomplete file.
    Raises ValueError for another generation or dtype, and OSError that names the folder if it cannot be
    written.
    """
    if generation not in get_args(TinyGeneration):
        known = ", ".join(get_args(TinyGeneration))
        raise ValueError(f"tiny models exist of generations {known}; got {generation!r}")
    if dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"dtype must be torch.float32 or torch.bfloat16; got {dtype}")
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Within the target, since a rename is atomic only within one file system.
        temporary = Path(tempfile.mkdtemp(prefix=".ltx2-tiny-", dir=folder))
    except OSError as error:
        raise OSError(f"cannot write models to {folder}: {error.strerror}; choose another folder") from error
    try:
        _write(TinySet.in_folder(temporary, generation), generation, seed, dtype)
        for source in sorted(path for path in temporary.rglob("*") if path.is_file()):
            target = folder / source.relative_to(temporary)
            target.parent.mkdir(parents=True, exist_ok=True)
            # safetensors creates files that only their owner can read.
            source.chmod(0o644)
            source.replace(target)
    finally:
        # Whatever fails, the temporary folder must not remain among the models.
        shutil.rmtree(temporary, ignore_errors=True)
    return TinySet.in_folder(folder, generation)


def _write(files: TinySet, generation: TinyGeneration, seed: int, dtype: torch.dtype) -> None:
    # Importing the tokenizers library takes time, and users of the paths alone do not need it.
    from ..text.tiny_gemma import write_tiny_gemma
    from ..text.tiny_gemma4 import write_tiny_gemma4
    from ..text.tiny_t5 import write_tiny_t5

    config = tiny_config(generation)
    _save(
        files.checkpoint,
        checkpoint_tensors(config, seed),
        dtype,
        # The header is like that of a released file, so that every reader of it is exercised.
        {"config": json.dumps(config), "model_version": _version(generation)},
    )
    _save_upsampler(files.upsampler, seed, dtype, temporal=False)
    if files.temporal_upsampler is not None:
        _save_upsampler(files.temporal_upsampler, seed, dtype, temporal=True)
    if files.duration_head is not None:
        save_duration_head(files.duration_head, seed, dtype)
    _save(files.lora, lora_tensors(config, seed), dtype, {"reference_downscale_factor": "1"})
    writers = {"2.5": write_tiny_gemma4, "ltxv-2b": write_tiny_t5}
    write_encoder = writers.get(generation, write_tiny_gemma)
    write_encoder(files.text_encoder, seed=seed, dtype=dtype, hidden_size=TEXT_WIDTH, layers=TEXT_LAYERS)


def _save_upsampler(path: Path, seed: int, dtype: torch.dtype, *, temporal: bool) -> None:
    """Write a latent upscaler with random weights: spatial x2, or with ``temporal`` for the frame rate."""
    config = {**tiny_upsampler_config(), "spatial_upsample": not temporal, "temporal_upsample": temporal}
    network = build(Component.UPSAMPLER, config, {}, operations=torch.nn, numerics=Numerics.OFFICIAL)
    _save(path, random_weights(network, seed), dtype, {"config": json.dumps(config)})


def _version(generation: TinyGeneration) -> str:
    """The ``model_version`` of a tiny checkpoint.

    Versions that end in "-tiny" select the recipe (default settings) of the trained tiny set; a tiny set of
    2.5 has the released version, and so the recipe of 2.5.
    """
    if generation == "ltxv-2b":
        # Released headers of LTX-Video state no version, but this one is not used for anything either.
        return "0.9.6"
    return "2.5.0" if generation == "2.5" else f"{generation}.0-tiny"


def save_duration_head(path: Path, seed: int, dtype: torch.dtype) -> None:
    """Write a duration head, the network that predicts the length of a clip from its prompt.

    Its weights are random, drawn by ``seed``, but biased to predict a few seconds; ``dtype`` is that of the
    tensors in the file. Its widths fit the text contexts of tiny checkpoints.
    """
    config = tiny_duration_config()
    widths = cast(JsonObject, config["transformer"])
    shapes = {
        "video_input_proj.weight": (0, cast(int, widths["cross_attention_dim"])),
        "audio_input_proj.weight": (0, cast(int, widths["audio_cross_attention_dim"])),
    }
    network = build(Component.DURATION_HEAD, config, shapes, operations=torch.nn, numerics=Numerics.OFFICIAL)
    tensors = random_weights(network, seed, prefix=OFFICIAL_PREFIXES[Component.DURATION_HEAD])
    # Random weights would predict clips of less than the shortest length.
    tensors["duration_head.mlp_out.bias"] += math.log(TYPICAL_SECONDS)
    _save(path, tensors, dtype, {"config": json.dumps(config), "model_version": "2.5.0"})


def checkpoint_tensors(config: ParsedJson, seed: int) -> dict[str, Tensor]:
    """Draw random float32 tensors for a single-file checkpoint with the header's ``config``, by name."""
    # One state more than layers: the embedding counts too.
    flat = TEXT_WIDTH * (TEXT_LAYERS + 1)
    text = dict.fromkeys(("aggregate_embed.weight", "video_aggregate_embed.weight"), (0, flat))
    tensors: dict[str, Tensor] = {}
    silent = not cfg.transformer_config(config).has_audio
    for component, prefix in OFFICIAL_PREFIXES.items():
        if component in (Component.UPSAMPLER, Component.DURATION_HEAD):
            # They have files of their own.
            continue
        if SECTION[component] not in config or (
            silent and component is not Component.TRANSFORMER and SECTION[component] == "transformer"
        ):
            # LTX-Video has neither audio nor networks between text encoder and transformer.
            continue
        network = build(component, config, text, operations=torch.nn, numerics=Numerics.OFFICIAL)
        tensors |= random_weights(network, seed, prefix=prefix)
    if silent:
        # The scale that released decoders store.
        tensors["vae.decoder.timestep_scale_multiplier"].fill_(1000)
        return tensors
    extension = cfg.vocoder_config(config).bwe
    if extension is not None:
        tensors |= stored_transforms(extension, "vocoder.mel_stft.")
    return tensors


def lora_tensors(config: ParsedJson, seed: int) -> dict[str, Tensor]:
    """Draw random LoRA tensors for the transformer of ``config``, named as in official LoRA files.

    They are for attention layers that the transformer has in all generations.
    """
    settings = cfg.transformer_config(config)
    tensors: dict[str, Tensor] = {}
    for block in range(settings.num_layers):
        streams = (("attn1", settings.dim), ("audio_attn1", settings.audio_dim))
        for attention, width in streams if settings.has_audio else streams[:1]:
            for layer in ("to_q", "to_k", "to_v", "to_out.0"):
                module = f"diffusion_model.transformer_blocks.{block}.{attention}.{layer}"
                for half, shape in (("lora_A", (LORA_RANK, width)), ("lora_B", (width, LORA_RANK))):
                    name = f"{module}.{half}.weight"
                    tensors[name] = random_tensor(name, shape, seed)
    return tensors


def _save(path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype, metadata: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Sorted, so that the same seed gives the same file.
    write_tensors(path, {name: tensor.to(dtype) for name, tensor in sorted(tensors.items())}, metadata)
