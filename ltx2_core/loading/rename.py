"""Renames the tensors of a diffusers folder to those of a single-file checkpoint.

There is one table for each model class of diffusers. Only names differ between the two layouts, except that
the folder stores queries, keys and values of the diffusion video decoder as three tensors, and the single
file as one; no tensor is transposed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Replacement = str | Callable[["re.Match[str]"], str]


@dataclass(frozen=True)
class Table:
    """Renames the tensors of one component from diffusers to official names.

    All ``rules``, (regular expression, replacement), are applied in their order; then ``prefix`` is put in
    front.
    """

    prefix: str
    rules: tuple[tuple[str, Replacement], ...] = ()

    def rename(self, name: str) -> str:
        for pattern, replacement in self.rules:
            name = re.sub(pattern, replacement, name)
        return self.prefix + name


NORMS: tuple[tuple[str, Replacement], ...] = ((r"\.norm_([qk])\.", r".\1_norm."),)

_TRANSFORMER = Table(
    "model.diffusion_model.",
    (
        (r"^(audio_)?proj_in\.", lambda m: f"{m[1] or ''}patchify_proj."),
        (r"^(audio_)?time_embed\.", lambda m: f"{m[1] or ''}adaln_single."),
        (r"^(audio_)?prompt_adaln\.", lambda m: f"{m[1] or ''}prompt_adaln_single."),
        (r"^av_cross_attn_(video|audio)_scale_shift\.", r"av_ca_\1_scale_shift_adaln_single."),
        (r"^av_cross_attn_(?:video|audio)_(a2v|v2a)_gate\.", r"av_ca_\1_gate_adaln_single."),
        (r"\.(video|audio)_a2v_cross_attn_scale_shift_table$", r".scale_shift_table_a2v_ca_\1"),
        *NORMS,
    ),
)

_CONNECTORS = Table(
    "",
    (
        (
            r"^(video_|audio_)?text_proj_in\.",
            lambda m: f"text_embedding_projection.{m[1] or ''}aggregate_embed.",
        ),
        (r"^(video|audio)_connector\.", r"model.diffusion_model.\1_embeddings_connector."),
        (r"_connector\.transformer_blocks\.", "_connector.transformer_1d_blocks."),
        *NORMS,
    ),
)

STATISTICS: tuple[tuple[str, Replacement], ...] = (
    (r"^latents_mean$", "per_channel_statistics.mean-of-means"),
    (r"^latents_std$", "per_channel_statistics.std-of-means"),
)


def _video_vae(blocks: int) -> Table:
    """Build the renaming table of a video VAE with ``blocks`` down blocks in diffusers.

    diffusers puts a resampler and its residual blocks, before it in the encoder and after it in the decoder,
    into one block. In the official layout they are two blocks, so block numbers are doubled.
    """

    def at(factor: int, offset: int) -> Callable[[re.Match[str]], str]:
        return lambda m: f"{m[1]}.{factor * int(m[2]) + offset}.{_LEAF[m[3]]}"

    return Table(
        "vae.",
        (
            (r"^encoder\.mid_block\.resnets\.", f"encoder.down_blocks.{2 * blocks}.res_blocks."),
            (r"^decoder\.mid_block\.resnets\.", "decoder.up_blocks.0.res_blocks."),
            (r"^(encoder\.down_blocks)\.(\d+)\.(downsamplers\.0)\.", at(2, 1)),
            (r"^(encoder\.down_blocks)\.(\d+)\.(resnets)\.", at(2, 0)),
            (r"^(decoder\.up_blocks)\.(\d+)\.(upsamplers\.0)\.", at(2, 1)),
            (r"^(decoder\.up_blocks)\.(\d+)\.(resnets)\.", at(2, 2)),
            *STATISTICS,
        ),
    )


_LEAF = {"downsamplers.0": "", "upsamplers.0": "", "resnets": "res_blocks."}

_VOCODER = Table(
    "vocoder.",
    (
        (r"(^|\.)conv_in\.", r"\1conv_pre."),
        (r"(^|\.)conv_out\.", r"\1conv_post."),
        (r"(^|\.)upsamplers\.", r"\1ups."),
        (r"(^|\.)resnets\.", r"\1resblocks."),
        (r"(^|\.)act_out\.", r"\1act_post."),
        # The official network has the filter in a module of its own.
        (r"\.downsample\.filter$", ".downsample.lowpass.filter"),
    ),
)

_DIFFUSION_DECODER = Table(
    "vae.",
    (
        # Queries, keys and values stay apart here; they are joined when they are read.
        (r"\.attn\.to_out\.0\.", ".attn.proj."),
        (
            r"\.t_embedder\.timestep_embedder\.linear_([12])\.",
            lambda m: f".t_embedder.mlp.{2 * int(m[1]) - 2}.",
        ),
        *NORMS,
        *STATISTICS,
    ),
)

_TABLES: Mapping[str, Table] = {
    "LTX2VideoTransformer3DModel": _TRANSFORMER,
    "LTX2TextConnectors": _CONNECTORS,
    "LTX2VideoDiffusionDecoderModel": _DIFFUSION_DECODER,
    "AutoencoderKLLTX2Audio": Table("audio_vae.", STATISTICS),
    "LTX2Vocoder": _VOCODER,
    "LTX2VocoderWithBWE": _VOCODER,
    "LTX2LatentUpsamplerModel": Table("latent_upsampler."),
    "LTXLatentUpsamplerModel": Table("latent_upsampler."),
}


def table_for(class_name: str, *, blocks: int = 0) -> Table | None:
    """Return the renaming table for a diffusers class, or None for an unsupported class.

    ``blocks`` is the number of down blocks of a video VAE, on which its names depend.
    """
    return _video_vae(blocks) if class_name == "AutoencoderKLLTX2Video" else _TABLES.get(class_name)
