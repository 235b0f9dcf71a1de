"""Translates the diffusion video decoder of a single file to diffusers' folder ``diffusion_decoder``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from ..config import video_vae_config
from ..storage.header import TensorInfo
from ..storage.writing import Entry
from . import diffusion_vae
from .diffusers_out import Json, Shapes
from .rename import Replacement

RULES: tuple[tuple[str, Replacement], ...] = (
    (r"\.attn\.proj\.", ".attn.to_out.0."),
    (r"\.([qk])_norm\.", r".norm_\1."),
    (
        r"\.t_embedder\.mlp\.([02])\.",
        lambda m: f".t_embedder.timestep_embedder.linear_{1 + int(m[1]) // 2}.",
    ),
    (r"^per_channel_statistics\.mean-of-means$", "latents_mean"),
    (r"^per_channel_statistics\.std-of-means$", "latents_std"),
)
"""Official names of tensors -> those of diffusers, but for the projections that :func:`parts` divides."""

_QKV = ".attn.qkv."


def decoder_out(config: Json, shapes: Shapes) -> Json:  # noqa: ARG001 all of its kind have both
    """Build the ``config.json`` of LTX2VideoDiffusionDecoderModel from the single-file configuration.

    ``shapes`` is not used; it is there because all functions that build a ``config.json`` are called alike.
    """
    vae = video_vae_config(config)
    decoder = vae.diffusion
    assert decoder is not None
    return {
        "latent_channels": vae.latent_channels,
        "out_channels": vae.channels,
        "patch_size": vae.patch_size,
        "decoder_head_dim": decoder.head_dim,
        "decoder_stage_channels": [*(stage.channels for stage in decoder.stages), decoder.channels],
        "decoder_stage_depths": [*(stage.depth for stage in decoder.stages), decoder.depth],
        "decoder_stage_kernels": [list(stage.kernel) for stage in decoder.stages],
        "decoder_upsample_strides": [list(stage.strides) for stage in decoder.stages],
        "decoder_upsample_channel_reductions": [stage.reduction for stage in decoder.stages],
        "decoder_stage5_kernel": list(decoder.kernel),
        "decoder_t_emb_dim": decoder.time_dim,
        "decoder_timestep_scale_multiplier": decoder.time_scale,
        "decoder_model_output_type": decoder.prediction,
        "decoder_num_inference_steps": decoder.steps,
    }


def read_decoder(config: Any) -> object:
    """Return all settings of the diffusion decoder in ``config``, a single-file configuration.

    They are only compared: those of a written folder must equal those of its source.
    """
    vae = video_vae_config(config)
    return vae.diffusion, vae.latent_channels, vae.channels, vae.patch_size


def parts(infos: Mapping[str, TensorInfo]) -> dict[str, Entry]:
    """The tensors of the diffusion decoder to write, by official name.

    One tensor of queries, keys and values becomes three. ``infos`` are the header entries of the decoder's
    tensors in the file that is read. Constant gates, which scale the
    output of a layer, are multiplied into that layer.
    """
    found: dict[str, Entry] = {}
    for name, (dtype, shape, read) in diffusion_vae.entries(infos).items():
        if _QKV not in name:
            found[name] = Entry(dtype, shape, read)
            continue
        third = shape[0] // 3, *shape[1:]
        for number, part in enumerate(("to_q", "to_k", "to_v")):
            own = name.replace(_QKV, f".attn.{part}.")
            found[own] = Entry(dtype, third, partial(_third, read, number))
    return found


def _third(read: Callable[[], Tensor], number: int) -> Tensor:
    return read().chunk(3)[number].contiguous()
