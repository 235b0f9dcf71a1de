"""Diffusers folders of LTX-Video: their configurations and tensor names as those of single files.

The video VAEs of its versions differ in their blocks, so that both follow from the ``config.json``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from ..config.reader import VIDEO_TRANSFORMER
from ..storage.files import JsonObject, JsonValue, ParsedJson
from .rename import NORMS, STATISTICS, Replacement, Table

TRANSFORMER_CLASS, VAE_CLASS = "LTXVideoTransformer3DModel", "AutoencoderKLLTXVideo"

TRANSFORMER_TABLE = Table(
    "model.diffusion_model.",
    ((r"^proj_in\.", "patchify_proj."), (r"^time_embed\.", "adaln_single."), *NORMS),
)

_KINDS = {
    "conv": "compress_all",
    "spatial": "compress_space_res",
    "temporal": "compress_time_res",
    "spatiotemporal": "compress_all_res",
}

Part = tuple[str, str, JsonObject]
"""Name of a part of a half in diffusers, kind of the block that it is in a single file, and its options."""


def transformer_config(c: ParsedJson) -> JsonObject:
    """Translate the ``config.json`` of a transformer. It does not say whether positions are causal."""
    heads, head_dim = c.get("num_attention_heads", 32), c.get("attention_head_dim", 64)
    names = ("num_layers", "in_channels", "out_channels", "caption_channels", "norm_eps", "attention_bias")
    return {
        "transformer": {
            "_class_name": VIDEO_TRANSFORMER,
            "num_attention_heads": heads,
            "attention_head_dim": head_dim,
            "cross_attention_dim": heads * head_dim,
            **{name: c[name] for name in (*names, "norm_elementwise_affine") if name in c},
        }
    }


def vae_config(c: ParsedJson) -> JsonObject:
    """Translate the ``config.json`` of a video VAE to the ``vae`` section of the configuration."""
    encoder: list[JsonValue] = [[kind, options] for _, kind, options in _encoder(c)]
    decoder: list[JsonValue] = [[kind, options] for _, kind, options in _decoder(c)]
    # A latent of 8 frames and 32 pixels needs patches of these sizes alone.
    if c.get("patch_size_t", 1) != 1:
        raise ValueError(f"video VAE: patch_size_t is {c['patch_size_t']!r}; only 1 is supported")
    names = ("in_channels", "out_channels", "patch_size", "latent_channels", "timestep_conditioning")
    return {
        "vae": {
            "_class_name": "CausalVideoAutoencoder",
            "encoder_base_channels": c["block_out_channels"][0],
            "decoder_base_channels": c["decoder_block_out_channels"][0] // _factors(c)[-1],
            "encoder_blocks": encoder,
            # Files list the decoder's blocks from its output to its input.
            "decoder_blocks": decoder[::-1],
            "spatial_padding_mode": "zeros",
            **{name: c[name] for name in names if name in c},
        }
    }


def vae_table(c: ParsedJson) -> Table:
    """The table that renames the tensors of a video VAE with this ``config.json``."""
    rules: list[tuple[str, Replacement]] = []
    for half, blocks, parts in (
        ("encoder", "down_blocks", _encoder(c)),
        ("decoder", "up_blocks", _decoder(c)),
    ):
        for number, (name, kind, _) in enumerate(parts):
            place = f"@{half}.{blocks}.{number}."
            plain = name.removesuffix(".resnets")
            if kind == "res_x":
                rules.append((rf"^{half}\.{re.escape(plain)}\.resnets\.", f"{place}res_blocks."))
                rules.append((rf"^{half}\.{re.escape(plain)}\.time_embedder\.", f"{place}time_embedder."))
            else:
                rules.append((rf"^{half}\.{re.escape(name)}\.", place))
    rules += [
        (r"^decoder\.time_embedder\.", "decoder.last_time_embedder."),
        (r"^decoder\.scale_shift_table$", "decoder.last_scale_shift_table"),
        (r"\.conv_shortcut\.conv\.", ".conv_shortcut."),
        (r"\.norm3\.", ".norm3.norm."),
        # The mark keeps a name that is done from matching a later rule.
        (r"^@", ""),
        *STATISTICS,
    ]
    return Table("vae.", tuple(rules))


def _encoder(c: ParsedJson) -> Iterator[Part]:
    """The parts of the encoder in the order in which they run."""
    widths, layers = c["block_out_channels"], c["layers_per_block"]
    old = c.get("down_block_types", ["LTXVideoDownBlock3D"])[0] == "LTXVideoDownBlock3D"
    count = len(layers) - 1
    scaling = c.get("spatio_temporal_scaling", [True] * count)
    kinds = c.get("downsample_type", ["conv"] * count)
    for i in range(count):
        yield f"down_blocks.{i}.resnets", "res_x", {"num_layers": layers[i]}
        after = widths[min(i + 1, len(widths) - 1)]
        if scaling[i]:
            kind = "compress_all" if old else _KINDS[kinds[i]]
            yield f"down_blocks.{i}.downsamplers.0", kind, {} if old else {"multiplier": after // widths[i]}
        if old and after != widths[i]:
            yield f"down_blocks.{i}.conv_out", "res_x_y", {"multiplier": 2}
    yield "mid_block.resnets", "res_x", {"num_layers": layers[-1]}


def _decoder(c: ParsedJson) -> Iterator[Part]:
    """The parts of the decoder in the order in which they run."""
    widths: Sequence[int] = c["decoder_block_out_channels"][::-1]
    layers: Sequence[int] = c["decoder_layers_per_block"][::-1]
    count = len(widths)
    factors = _factors(c)
    scaling = _each(c.get("decoder_spatio_temporal_scaling", True), count)[::-1]
    residual = _each(c.get("upsample_residual", False), count)[::-1]
    noise = _each(c.get("decoder_inject_noise", False), count + 1)[::-1]
    width = widths[0]
    yield "mid_block.resnets", "res_x", {"num_layers": layers[0], "inject_noise": noise[0]}
    for i in range(count):
        before, width = width // factors[i], widths[i] // factors[i]
        if before != width:
            yield f"up_blocks.{i}.conv_in", "res_x_y", {"multiplier": 2}
        if scaling[i]:
            options: JsonObject = {"multiplier": factors[i], "residual": residual[i]}
            yield f"up_blocks.{i}.upsamplers.0", "compress_all", options
        yield f"up_blocks.{i}.resnets", "res_x", {"num_layers": layers[i + 1], "inject_noise": noise[i + 1]}


def _factors(c: ParsedJson) -> list[Any]:
    """By how much each upsampling divides the number of channels, in the order in which they run."""
    return _each(c.get("upsample_factor", 1), len(c["decoder_block_out_channels"]))[::-1]


def _each(value: Any, count: int) -> list[Any]:
    return list(value) if isinstance(value, list) else [value] * count
