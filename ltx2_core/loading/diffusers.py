"""Translates the ``config.json`` of each diffusers class to the configuration in a single file's header."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..storage.files import JsonObject, JsonValue, ParsedJson
from . import diffusers_ltxv


def _transformer(c: ParsedJson) -> JsonObject:
    heads, head_dim = c.get("num_attention_heads", 32), c.get("attention_head_dim", 128)
    return {
        "transformer": {
            "num_layers": c.get("num_layers", 48),
            "num_attention_heads": heads,
            "attention_head_dim": head_dim,
            "cross_attention_dim": c.get("cross_attention_dim", heads * head_dim),
            "audio_num_attention_heads": c.get("audio_num_attention_heads", heads),
            "audio_attention_head_dim": c.get("audio_attention_head_dim", 64),
            **_present(c, "audio_cross_attention_dim", "in_channels", "out_channels", "audio_in_channels"),
            **_present(c, "audio_out_channels", "caption_channels", "norm_eps", "attention_bias"),
            **_present(c, "norm_elementwise_affine", "activation_fn", "timestep_scale_multiplier"),
            **_present(c, "ff_bias", "audio_ff_bias", "use_prompt_adaln_single"),
            **_present(c, "use_keyframes_abs_pos_embedding"),
            "apply_gated_attention": _both(c, "gated_attn", "audio_gated_attn"),
            "cross_attention_adaln": _both(c, "cross_attn_mod", "audio_cross_attn_mod"),
            "caption_proj_before_connector": not c.get("use_prompt_embeddings", True),
            "av_ca_timestep_scale_multiplier": c.get("cross_attn_timestep_scale_multiplier", 1000),
            "positional_embedding_max_pos": [
                c.get("pos_embed_max_pos", 20),
                c.get("base_height", 2048),
                c.get("base_width", 2048),
            ],
            "audio_positional_embedding_max_pos": [c.get("audio_pos_embed_max_pos", 20)],
            **_rope(c),
        }
    }


def _connectors(c: ParsedJson) -> JsonObject:
    late = bool(c.get("per_modality_projections", False))
    return {
        "transformer": {
            "caption_channels": c.get("caption_channels", 3840),
            "caption_proj_before_connector": late,
            "connector_num_attention_heads": c.get("video_connector_num_attention_heads", 30),
            "connector_attention_head_dim": c.get("video_connector_attention_head_dim", 128),
            "connector_num_layers": c.get("video_connector_num_layers", 2),
            "connector_num_learnable_registers": c.get("video_connector_num_learnable_registers", 128),
            "audio_connector_num_attention_heads": c.get("audio_connector_num_attention_heads", 30),
            "audio_connector_attention_head_dim": c.get("audio_connector_attention_head_dim", 128),
            "audio_connector_num_layers": c.get("audio_connector_num_layers", 2),
            "connector_apply_gated_attention": _both(c, "video_gated_attn", "audio_gated_attn"),
            "connector_positional_embedding_max_pos": [c.get("connector_rope_base_seq_len", 4096)],
            **_rope(c),
        }
    }


def _video_vae(c: ParsedJson) -> JsonObject:
    """Translate the ``config.json`` of a diffusers video VAE to the ``vae`` section of the configuration.

    diffusers lists the encoder's blocks in the order in which they run. The decoder's blocks are in reverse
    order, except those of ``upsample_type``, which are in the order in which they run.
    """
    latent = c.get("latent_channels", 128)
    # diffusers has no such key: its encoder begins with as many channels as the latent. Our tiny sets do not.
    base = c.get("encoder_base_channels", latent)
    for key in ("spatio_temporal_scaling", "decoder_spatio_temporal_scaling"):
        value = c.get(key, True)
        if not (all(value) if isinstance(value, list) else value):
            raise ValueError(f"video VAE: {key} is {value!r}; only true is supported")
    if c.get("patch_size_t", 1) != 1:
        raise ValueError(f"video VAE: patch_size_t is {c['patch_size_t']!r}; only 1 is supported")
    widths = c["block_out_channels"]
    encoder: list[JsonValue] = []
    # Not strict: layers_per_block has one entry more, for the middle block, and the first list one for the
    # input.
    for before, width, kind, layers in zip(
        [base, *widths], widths, c["downsample_type"], c["layers_per_block"], strict=False
    ):
        encoder += [
            ["res_x", {"num_layers": layers}],
            [f"{_RESAMPLING[kind]}_res", {"multiplier": width // before}],
        ]
    encoder.append(["res_x", {"num_layers": c["layers_per_block"][-1]}])
    count, factors = len(c["decoder_block_out_channels"]), c["upsample_factor"]
    noise = _per_block(c.get("decoder_inject_noise", False), count + 1)
    residual = _per_block(c.get("upsample_residual", True), count)
    layers = c["decoder_layers_per_block"]
    decoder: list[JsonValue] = [["res_x", {"num_layers": layers[0], "inject_noise": noise[0]}]]
    for i, kind in enumerate(reversed(c.get("upsample_type", ["spatiotemporal"] * count))):
        decoder += [
            [_RESAMPLING[kind], {"multiplier": factors[i], "residual": residual[i]}],
            ["res_x", {"num_layers": layers[i + 1], "inject_noise": noise[i + 1]}],
        ]
    return {
        "vae": {
            "_class_name": "CausalVideoAutoencoder",
            "latent_channels": latent,
            "encoder_base_channels": base,
            "decoder_base_channels": c["decoder_block_out_channels"][0] // factors[0],
            "encoder_blocks": encoder,
            "decoder_blocks": decoder,
            "encoder_spatial_padding_mode": c.get("encoder_spatial_padding_mode", "zeros"),
            "decoder_spatial_padding_mode": c.get("decoder_spatial_padding_mode", "reflect"),
            "causal_decoder": c.get("decoder_causal", False),
            **_present(c, "in_channels", "out_channels", "patch_size", "timestep_conditioning"),
        }
    }


def _diffusion_decoder(c: ParsedJson) -> JsonObject:
    names = {
        "latent_channels": "in_channels",
        **{key: key for key in ("out_channels", "patch_size")},
        "decoder_head_dim": "head_dim",
        "decoder_stage_channels": "stage_channels",
        "decoder_stage_depths": "stage_depths",
        "decoder_stage_kernels": "stage_kernels",
        "decoder_stage5_kernel": "stage5_kernel",
        "decoder_t_emb_dim": "t_emb_dim",
        "decoder_timestep_scale_multiplier": "timestep_scale_multiplier",
        "decoder_num_inference_steps": "default_num_inference_steps",
    }
    decoder: JsonObject = {new: c[old] for old, new in names.items() if old in c}
    strides, reductions = c.get("decoder_upsample_strides"), c.get("decoder_upsample_channel_reductions")
    if strides and reductions:
        decoder["upsamples"] = [list(pair) for pair in zip(strides, reductions, strict=True)]
    return {
        "vae": {
            "_class_name": "CausalDiffusionVAE",
            "model_output_type": c.get("decoder_model_output_type", "x0"),
            "decoder": decoder,
        }
    }


def _audio_vae(c: ParsedJson) -> JsonObject:
    names = {
        "base_channels": "ch",
        "output_channels": "out_ch",
        "latent_channels": "z_channels",
        **{key: key for key in ("ch_mult", "num_res_blocks", "in_channels", "mel_bins", "double_z")},
        **{key: key for key in ("norm_type", "causality_axis", "mid_block_add_attention")},
    }
    return {
        "audio_vae": {
            "model": {
                "params": {
                    "ddconfig": {
                        **{new: c[old] for old, new in names.items() if old in c},
                        "attn_resolutions": list(c.get("attn_resolutions") or []),
                    },
                    "sampling_rate": c.get("sample_rate", 16000),
                }
            },
            "preprocessing": {"stft": {"hop_length": c.get("mel_hop_length", 160)}},
        }
    }


def _vocoder(c: ParsedJson) -> JsonObject:
    return {"vocoder": _generator(c, "")}


def _vocoder_bwe(c: ParsedJson) -> JsonObject:
    # The original network clamps the first stage's output. diffusers has no setting for that and stores no
    # final activation, which must be read as the clamp.
    first = {**_generator(c, ""), "use_tanh_at_final": False}
    first.pop("apply_final_activation", None)
    return {
        "vocoder": {
            "vocoder": first,
            "bwe": {
                **_generator(c, "bwe_"),
                "input_sampling_rate": c.get("input_sampling_rate", 16000),
                "output_sampling_rate": c.get("output_sampling_rate", 48000),
                "hop_length": c.get("hop_length", 80),
                "n_fft": c.get("filter_length", 512),
                "win_size": c.get("window_length", 512),
                "num_mels": c.get("num_mel_channels", 64),
            },
        }
    }


def _generator(c: ParsedJson, prefix: str) -> JsonObject:
    amp = bool(c.get(f"{prefix}antialias", False))
    final = c.get(f"{prefix}final_act_fn")
    names = {
        "hidden_channels": "upsample_initial_channel",
        "upsample_factors": "upsample_rates",
        "upsample_kernel_sizes": "upsample_kernel_sizes",
        "resnet_kernel_sizes": "resblock_kernel_sizes",
        "resnet_dilations": "resblock_dilation_sizes",
        "final_bias": "use_bias_at_final",
    }
    return {
        **{new: c[prefix + old] for old, new in names.items() if prefix + old in c},
        "resblock": "AMP1" if amp else "1",
        **({"activation": c.get(f"{prefix}act_fn", "snakebeta")} if amp else {}),
        "use_tanh_at_final": final == "tanh",
        "apply_final_activation": final is not None,
    }


def _upsampler(c: ParsedJson) -> JsonObject:
    keys = ("in_channels", "mid_channels", "num_blocks_per_stage", "dims")
    return {
        **_present(c, *keys, "spatial_upsample", "temporal_upsample"),
        "spatial_scale": c.get("rational_spatial_scale", 2.0),
        "rational_resampler": c.get("use_rational_resampler", True),
    }


def _ltxv_upsampler(c: ParsedJson) -> JsonObject:
    return {**_upsampler(c), "mid_channels": c.get("mid_channels", 512), "rational_resampler": False}


_RESAMPLING = {
    "spatial": "compress_space",
    "temporal": "compress_time",
    "spatiotemporal": "compress_all",
}

TRANSLATIONS: Mapping[str, Callable[[ParsedJson], JsonObject]] = {
    "LTX2VideoTransformer3DModel": _transformer,
    "LTX2TextConnectors": _connectors,
    "AutoencoderKLLTX2Video": _video_vae,
    "LTX2VideoDiffusionDecoderModel": _diffusion_decoder,
    "AutoencoderKLLTX2Audio": _audio_vae,
    "LTX2Vocoder": _vocoder,
    "LTX2VocoderWithBWE": _vocoder_bwe,
    "LTX2LatentUpsamplerModel": _upsampler,
    "LTXLatentUpsamplerModel": _ltxv_upsampler,
    diffusers_ltxv.TRANSFORMER_CLASS: diffusers_ltxv.transformer_config,
    diffusers_ltxv.VAE_CLASS: diffusers_ltxv.vae_config,
}
"""diffusers class -> function from its ``config.json`` to a part of the single-file configuration.

Missing fields take the values of 2.0, whose folders do not have them.
"""


def _rope(c: ParsedJson) -> JsonObject:
    return {
        "positional_embedding_theta": c.get("rope_theta", 10000.0),
        "rope_type": c.get("rope_type", "split"),
        "frequencies_precision": "float64" if c.get("rope_double_precision", True) else "float32",
    }


def _both(c: ParsedJson, video: str, audio: str) -> bool:
    values = {bool(c.get(video, False)), bool(c.get(audio, False))}
    # The single-file configuration has one key for both streams.
    if len(values) > 1:
        raise ValueError(f"{video} and {audio} differ; only equal values are supported")
    return values.pop()


def _per_block(value: JsonValue, count: int) -> list[JsonValue]:
    return list(value) if isinstance(value, list) else [value] * count


def _present(c: ParsedJson, *keys: str) -> JsonObject:
    return {key: c[key] for key in keys if key in c}
