"""Translates configurations and tensor names of a single-file checkpoint to those of diffusers.

The modules ``diffusers`` and ``rename`` translate in the other direction. Results of this one are not
trusted: what is written is read back by those two and compared.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from .rename import Replacement

Json = dict[str, Any]
Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of a component's tensors, by their names in official checkpoints without prefix."""


def transformer_out(config: Json, shapes: Shapes) -> Json:  # noqa: ARG001 names of Writer
    """Build the ``config.json`` of LTX2VideoTransformer3DModel from the single-file configuration ``config``.

    ``shapes`` is not used; it is there because all functions that build a ``config.json`` are called alike.
    """
    c: Json = config["transformer"]
    same = (
        *("num_layers", "num_attention_heads", "attention_head_dim", "cross_attention_dim", "in_channels"),
        *("audio_num_attention_heads", "audio_attention_head_dim", "audio_cross_attention_dim"),
        *("out_channels", "audio_in_channels", "audio_out_channels", "caption_channels", "norm_eps"),
        *("attention_bias", "norm_elementwise_affine", "activation_fn", "timestep_scale_multiplier"),
        *("ff_bias", "audio_ff_bias", "use_prompt_adaln_single", "use_keyframes_abs_pos_embedding"),
    )
    gated, modulated = bool(c.get("apply_gated_attention")), bool(c.get("cross_attention_adaln"))
    frames, rows, columns = c.get("positional_embedding_max_pos", (20, 2048, 2048))
    return {
        **_present(c, *same),
        "gated_attn": gated,
        "audio_gated_attn": gated,
        "cross_attn_mod": modulated,
        "audio_cross_attn_mod": modulated,
        "use_prompt_embeddings": not c.get("caption_proj_before_connector", False),
        "cross_attn_timestep_scale_multiplier": c.get("av_ca_timestep_scale_multiplier", 1000),
        "pos_embed_max_pos": frames,
        "base_height": rows,
        "base_width": columns,
        "audio_pos_embed_max_pos": c.get("audio_positional_embedding_max_pos", (20,))[0],
        **_rope(c),
    }


def connectors_out(config: Json, shapes: Shapes) -> Json:
    """Build the ``config.json`` of LTX2TextConnectors from the single-file configuration ``config``.

    ``shapes`` has the shapes of the text projection's tensors by official name.
    """
    c: Json = config["transformer"]
    late, gated = bool(c.get("caption_proj_before_connector")), bool(c.get("connector_apply_gated_attention"))
    hidden = c.get("caption_channels", 3840)
    names = ("aggregate_embed.weight", "video_aggregate_embed.weight", "audio_aggregate_embed.weight")
    widths = {name: shapes[name] for name in names if name in shapes}
    own: Json = {"text_proj_in_factor": next(iter(widths.values()))[1] // hidden} if widths else {}
    if late:
        own["proj_bias"] = "video_aggregate_embed.bias" in shapes
        for stream in ("video", "audio"):
            if shape := widths.get(f"{stream}_aggregate_embed.weight"):
                own[f"{stream}_hidden_dim"] = shape[0]
    video = (c.get("connector_num_attention_heads", 30), c.get("connector_attention_head_dim", 128))
    layers = c.get("connector_num_layers", 2)
    registers = c.get("connector_num_learnable_registers", 128)
    heads = c.get("audio_connector_num_attention_heads", video[0])
    dim = c.get("audio_connector_attention_head_dim", video[1])
    return {
        "caption_channels": hidden,
        "per_modality_projections": late,
        "video_connector_num_attention_heads": video[0],
        "video_connector_attention_head_dim": video[1],
        "audio_connector_num_attention_heads": heads,
        "audio_connector_attention_head_dim": dim,
        **{f"{stream}_connector_num_layers": layers for stream in ("video", "audio")},
        **{f"{stream}_connector_num_learnable_registers": registers for stream in ("video", "audio")},
        "video_gated_attn": gated,
        "audio_gated_attn": gated,
        "connector_rope_base_seq_len": c.get("connector_positional_embedding_max_pos", (4096,))[0],
        **own,
        **_rope(c),
    }


def video_vae_out(config: Json, shapes: Shapes) -> Json:  # noqa: ARG001 names of Writer
    """Build the ``config.json`` of AutoencoderKLLTX2Video from the single-file configuration ``config``.

    ``shapes`` is not used; it is there because all functions that build a ``config.json`` are called alike.
    """
    c: Json = config["vae"]
    latent = c.get("latent_channels", 128)
    encoder, decoder = c["encoder_blocks"], c["decoder_blocks"]
    first = c.get("encoder_base_channels", latent)
    widths, width = list[int](), first
    for _, options in encoder[1::2]:
        width *= _options(options)["multiplier"]
        widths.append(width)
    ups = [_options(options) for _, options in decoder[1::2]]
    factors = [one.get("multiplier", 2) for one in ups]
    base = c.get("decoder_base_channels", latent)
    channels = list[int]()
    # Files list the blocks from the output, which has the base width, to the input.
    for factor in factors:
        base *= factor
        channels.append(base)
    padding = c.get("spatial_padding_mode", "zeros")
    downs = [_KINDS[str(kind).removesuffix("_res")] for kind, _ in encoder[1::2]]
    return {
        "latent_channels": latent,
        # Diffusers would take each of four levels for one of space and time, and make clips of half the size.
        "spatial_compression_ratio": c.get("patch_size", 4) * 2 ** sum(one != "temporal" for one in downs),
        "temporal_compression_ratio": 2 ** sum(one != "spatial" for one in downs),
        # A key of this library, which is left out where the rule of diffusers gives the same number.
        **({} if first == latent else {"encoder_base_channels": first}),
        "block_out_channels": widths,
        "layers_per_block": [_options(options)["num_layers"] for _, options in encoder[::2]],
        "downsample_type": downs,
        "spatio_temporal_scaling": [True] * len(widths),
        "decoder_block_out_channels": channels,
        "decoder_layers_per_block": [_options(options)["num_layers"] for _, options in decoder[::2]],
        "decoder_spatio_temporal_scaling": [True] * len(factors),
        "decoder_inject_noise": [bool(_options(o).get("inject_noise", False)) for _, o in decoder[::2]],
        "upsample_factor": factors,
        "upsample_residual": [bool(one.get("residual", False)) for one in ups],
        "upsample_type": [_KINDS[kind] for kind, _ in reversed(decoder[1::2])],
        "encoder_spatial_padding_mode": c.get("encoder_spatial_padding_mode", padding),
        "decoder_spatial_padding_mode": c.get(
            "decoder_spatial_padding_mode", c.get("spatial_padding_mode", "reflect")
        ),
        "decoder_causal": c.get("causal_decoder", False),
        **_present(c, "in_channels", "out_channels", "patch_size", "timestep_conditioning"),
    }


def audio_vae_out(config: Json, shapes: Shapes) -> Json:  # noqa: ARG001 names of Writer
    """Build the ``config.json`` of AutoencoderKLLTX2Audio from the single-file configuration ``config``.

    ``shapes`` is not used; it is there because all functions that build a ``config.json`` are called alike.
    """
    c: Json = config["audio_vae"]
    params = c["model"]["params"]
    names = {
        "ch": "base_channels",
        "out_ch": "output_channels",
        "z_channels": "latent_channels",
        **{key: key for key in ("ch_mult", "num_res_blocks", "in_channels", "mel_bins", "double_z")},
        **{key: key for key in ("norm_type", "causality_axis", "mid_block_add_attention")},
    }
    inner = params["ddconfig"]
    return {
        **{new: inner[old] for old, new in names.items() if old in inner},
        "attn_resolutions": list(inner.get("attn_resolutions") or []) or None,
        "sample_rate": params.get("sampling_rate", 16000),
        "mel_hop_length": c.get("preprocessing", {}).get("stft", {}).get("hop_length", 160),
    }


def vocoder_out(config: Json, shapes: Shapes) -> Json:  # noqa: ARG001 names of Writer
    """Build the ``config.json`` of LTX2Vocoder, or of LTX2VocoderWithBWE with bandwidth extension.

    ``config`` is the single-file configuration. ``shapes`` is not used; it is there because all functions
    that build a ``config.json`` are called alike.
    """
    c: Json = config["vocoder"]
    if "bwe" not in c:
        return _generator(c, "")
    names = {
        "input_sampling_rate": "input_sampling_rate",
        "output_sampling_rate": "output_sampling_rate",
        "hop_length": "hop_length",
        "n_fft": "filter_length",
        "win_size": "window_length",
        "num_mels": "num_mel_channels",
    }
    bwe = c["bwe"]
    return {
        **_generator(c["vocoder"], ""),
        **_generator(bwe, "bwe_"),
        **{new: bwe[old] for old, new in names.items() if old in bwe},
    }


def _generator(c: Json, prefix: str) -> Json:
    amp = str(c.get("resblock", "1")).startswith("AMP")
    names = {
        "upsample_initial_channel": "hidden_channels",
        "upsample_rates": "upsample_factors",
        "upsample_kernel_sizes": "upsample_kernel_sizes",
        "resblock_kernel_sizes": "resnet_kernel_sizes",
        "resblock_dilation_sizes": "resnet_dilations",
        "use_bias_at_final": "final_bias",
    }
    final = "tanh" if c.get("use_tanh_at_final", not amp) else "clamp"
    # diffusers states no activation for the first stage of two, which clamps all the same.
    none = not c.get("apply_final_activation", True) or (amp and not prefix)
    return {
        **{prefix + new: c[old] for old, new in names.items() if old in c},
        f"{prefix}antialias": amp,
        **({f"{prefix}act_fn": c.get("activation", "snakebeta")} if amp else {}),
        f"{prefix}final_act_fn": None if none else final,
    }


def upsampler_out(config: Json, shapes: Shapes) -> Json:  # noqa: ARG001 names of Writer
    """Build the ``config.json`` of LTX2LatentUpsamplerModel from the single-file configuration ``config``.

    ``shapes`` is not used; it is there because all functions that build a ``config.json`` are called alike.
    """
    keys = ("in_channels", "mid_channels", "num_blocks_per_stage", "dims")
    return {
        **_present(config, *keys, "spatial_upsample", "temporal_upsample"),
        "rational_spatial_scale": config.get("spatial_scale", 2.0),
        "use_rational_resampler": config.get("rational_resampler", False),
    }


_KINDS = {"compress_space": "spatial", "compress_time": "temporal", "compress_all": "spatiotemporal"}


def _options(value: Any) -> Json:
    """Return the options of a VAE block as a JSON object.

    ``value`` is that object, or in older configurations the number of layers alone, which becomes
    {"num_layers": value}.
    """
    return value if isinstance(value, dict) else {"num_layers": value}


def _rope(c: Json) -> Json:
    return {
        "rope_theta": c.get("positional_embedding_theta", 10000.0),
        # Where the source states nothing, our reader takes these, see config.reader.
        "rope_type": c.get("rope_type", "split"),
        "rope_double_precision": c.get("frequencies_precision", "float64") == "float64",
    }


def _present(c: Json, *keys: str) -> Json:
    return {key: c[key] for key in keys if key in c}


# Names

_Rules = tuple[tuple[str, Replacement], ...]
_NORMS: _Rules = ((r"\.([qk])_norm\.", r".norm_\1."),)
_STATISTICS: _Rules = (
    (r"^per_channel_statistics\.mean-of-means$", "latents_mean"),
    (r"^per_channel_statistics\.std-of-means$", "latents_std"),
)


def _at(part: str, middle: int, offset: int) -> Callable[[re.Match[str]], str]:
    """Make the replacement of a renaming rule: a function from a match to the tensor's name in diffusers.

    The match has the number of a video VAE's block and the rest of the name as its groups. ``part`` is
    "encoder.down_blocks" or "decoder.up_blocks". There a resampler and its residual blocks are two blocks, in
    diffusers they are one: block n becomes (n - ``offset``) // 2, and block ``middle`` the ``mid_block``.
    """
    up = part == "decoder.up_blocks"

    def place(m: re.Match[str]) -> str:
        number, leaf = int(m[1]), m[2]
        if number == middle:
            return f"{part.partition('.')[0]}.mid_block.resnets.{leaf.removeprefix('res_blocks.')}"
        index = (number - offset) // 2
        if leaf.startswith("res_blocks."):
            return f"{part}.{index}.resnets.{leaf.removeprefix('res_blocks.')}"
        return f"{part}.{index}.{'upsamplers' if up else 'downsamplers'}.0.{leaf}"

    return place


def video_vae_rules(blocks: int) -> _Rules:
    """The rules (pattern, replacement) that rename a video VAE's tensors to diffusers.

    ``blocks`` is the number of its down blocks in diffusers.
    """
    return (
        (r"^encoder\.down_blocks\.(\d+)\.(.+)$", _at("encoder.down_blocks", 2 * blocks, 0)),
        (r"^decoder\.up_blocks\.(\d+)\.(.+)$", _at("decoder.up_blocks", 0, 1)),
        *_STATISTICS,
    )


TRANSFORMER_RULES: _Rules = (
    (r"^(audio_)?patchify_proj\.", lambda m: f"{m[1] or ''}proj_in."),
    (r"^(audio_)?adaln_single\.", lambda m: f"{m[1] or ''}time_embed."),
    (r"^(audio_)?prompt_adaln_single\.", lambda m: f"{m[1] or ''}prompt_adaln."),
    (r"^av_ca_(video|audio)_scale_shift_adaln_single\.", r"av_cross_attn_\1_scale_shift."),
    (r"^av_ca_a2v_gate_adaln_single\.", "av_cross_attn_video_a2v_gate."),
    (r"^av_ca_v2a_gate_adaln_single\.", "av_cross_attn_audio_v2a_gate."),
    (r"\.scale_shift_table_a2v_ca_(video|audio)$", r".\1_a2v_cross_attn_scale_shift_table"),
    *_NORMS,
)
CONNECTOR_RULES: _Rules = (
    (r"^(video_|audio_)?aggregate_embed\.", lambda m: f"{m[1] or ''}text_proj_in."),
    (r"^(video|audio)_embeddings_connector\.", r"\1_connector."),
    (r"_connector\.transformer_1d_blocks\.", "_connector.transformer_blocks."),
    *_NORMS,
)
AUDIO_VAE_RULES: _Rules = _STATISTICS
VOCODER_RULES: _Rules = (
    (r"(^|\.)conv_pre\.", r"\1conv_in."),
    (r"(^|\.)conv_post\.", r"\1conv_out."),
    (r"(^|\.)ups\.", r"\1upsamplers."),
    (r"(^|\.)resblocks\.", r"\1resnets."),
    (r"(^|\.)act_post\.", r"\1act_out."),
    (r"\.downsample\.lowpass\.filter$", ".downsample.filter"),
)


def renamed(name: str, rules: _Rules) -> str:
    """Convert an official tensor name, without its component's prefix, to that of diffusers by ``rules``."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
