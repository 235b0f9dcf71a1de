"""A tiny diffusion video VAE of LTX-2.5: the encoder of a tiny checkpoint, and a small random decoder."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ..loading import Checkpoint, Component
from ..loading.components import build
from ..storage.files import JsonObject, JsonValue
from ..storage.reading import read_tensors
from ..storage.writing import write_tensors
from ..types import Numerics
from .weights import random_weights

_DECODER: JsonObject = {
    "_class_name": "NADiffusionDecoder",
    "in_channels": 128,
    "out_channels": 3,
    "patch_size": 4,
    "head_dim": 16,
    # Windows differ on every axis, so that code that mixes up two of them fails on the tiny set as well.
    "stage_channels": [64, 32, 16, 16, 16],
    "stage_depths": [2, 1, 2, 1, 2],
    "stage_kernels": [[3, 3, 5], [3, 5, 3], [3, 3, 3], [3, 5, 3], [5, 3, 7]],
    "upsamples": [[[1, 2, 2], 2], [[2, 1, 1], 2], [[2, 2, 2], 1], [[2, 2, 2], 1]],
    "stage5_kernel": [5, 3, 7],
    "t_emb_dim": 24,
    "timestep_scale_multiplier": 1000.0,
    "default_num_inference_steps": 1,
    "spatial_padding_mode": "zeros",
    "resampler_kind": "linear",
}


def diffusion_vae_config(vae: JsonObject) -> JsonObject:
    """Make the ``vae`` section of the configuration of a tiny diffusion VAE.

    ``vae`` is that section of the checkpoint whose encoder the VAE gets.
    """
    encoder: dict[str, JsonValue] = {
        "_class_name": "Encoder",
        "blocks": vae["encoder_blocks"],
        "in_channels": 3,
        "out_channels": 128,
        "base_channels": vae["encoder_base_channels"],
        "patch_size": 4,
        "latent_log_var": "constant",
        "norm_layer": "pixel_norm",
        "spatial_padding_mode": "zeros",
    }
    return {
        "_class_name": "CausalDiffusionVAE",
        "model_output_type": "x0",
        "latent_channels": 128,
        "encoder": encoder,
        "decoder": dict(_DECODER),
    }


def write_diffusion_vae(
    path: Path, checkpoint: Checkpoint, *, seed: int = 0, dtype: torch.dtype = torch.bfloat16
) -> None:
    """Write a diffusion VAE to ``path``, with the encoder and the latent statistics of ``checkpoint``.

    The weights of the decoder are random, drawn by ``seed``; ``dtype`` is that of the tensors in the file.
    The file has the layout of the released one: names without a prefix, and the settings in its header.
    """
    config: JsonObject = {"vae": diffusion_vae_config(dict(checkpoint.config["vae"]))}
    network = build(Component.VIDEO_DECODER, config, {}, operations=torch.nn, numerics=Numerics.OFFICIAL)
    tensors = {**random_weights(network, seed), **read_tensors(checkpoint.infos(Component.VIDEO_ENCODER))}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(
        path,
        {name: tensor.to(dtype) for name, tensor in sorted(tensors.items())},
        {"config": json.dumps(config), "model_version": "2.5.0"},
    )
