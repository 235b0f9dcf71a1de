"""Checkpoint JSON to typed configuration: missing keys get released values, unsupported ones are refused."""

from __future__ import annotations

import pytest

from ltx2_core import config as cfg


def test_an_empty_header_means_the_released_20_model() -> None:
    transformer = cfg.transformer_config({})
    assert (transformer.num_layers, transformer.dim, transformer.audio_dim) == (48, 4096, 2048)
    assert transformer.cross_timestep_scale == 1000
    assert transformer.rope == cfg.RopeConfig()
    text = cfg.text_config({})
    assert not text.per_token_norm
    assert text.video.dim == text.audio.dim == 3840
    assert text.video.num_layers == 2
    vae = cfg.video_vae_config({})
    assert [block.kind for block in vae.decoder_blocks] == ["res_x", *["compress_all", "res_x"] * 3]
    assert vae.decoder_padding == "reflect"
    assert vae.encoder_padding == "zeros"
    assert cfg.vocoder_config({}).sample_rate == 24000


def test_a_23_header_switches_gates_prompt_modulation_and_both_connectors() -> None:
    header = {
        "transformer": {
            "apply_gated_attention": True,
            "cross_attention_adaln": True,
            "caption_proj_before_connector": True,
            "connector_apply_gated_attention": True,
            "connector_num_attention_heads": 32,
            "audio_connector_attention_head_dim": 64,
            "text_encoder_norm_type": "PER_TOKEN_RMS",
        }
    }
    transformer, text = cfg.transformer_config(header), cfg.text_config(header)
    assert transformer.gated_attention
    assert transformer.modulation_rows == 9
    assert not transformer.caption_projection
    assert (text.video.dim, text.audio.dim, text.video.num_layers) == (4096, 2048, 8)
    assert text.per_token_norm
    assert text.audio.gated_attention


def test_decoder_blocks_come_in_execution_order() -> None:
    stored = [
        ["res_x", {"num_layers": 1}],
        ["compress_time", {"multiplier": 2}],
        ["res_x", {"num_layers": 3}],
    ]
    vae = cfg.video_vae_config({"vae": {"decoder_blocks": stored, "spatial_padding_mode": "zeros"}})
    assert [block.num_layers for block in vae.decoder_blocks] == [3, 1, 1]
    assert vae.decoder_blocks[1].strides == (2, 1, 1)
    assert vae.decoder_padding == "zeros"


def test_the_bandwidth_extension_sets_the_rate_and_the_final_clamp() -> None:
    vocoder = cfg.vocoder_config({"vocoder": {"vocoder": {"resblock": "AMP1"}, "bwe": {"resblock": "AMP1"}}})
    assert vocoder.sample_rate == 48000
    assert vocoder.bwe is not None
    assert vocoder.generator.final_activation == "clamp"
    assert not vocoder.generator.final_bias
    assert vocoder.bwe.generator.final_activation == "none"


def test_a_temporal_upsampler_is_never_rational() -> None:
    flat = {"temporal_upsample": True, "spatial_upsample": False, "rational_resampler": True}
    upsampler = cfg.upsampler_config(flat)
    assert upsampler.temporal
    assert not upsampler.spatial
    assert not upsampler.rational


@pytest.mark.parametrize(
    ("read", "header", "key"),
    [
        (cfg.transformer_config, {"transformer": {"qk_norm": "layer_norm"}}, "qk_norm"),
        (cfg.transformer_config, {"transformer": {"rope_type": "spiral"}}, "rope_type"),
        (cfg.transformer_config, {"transformer": {"cross_attention_dim": 17}}, "cross_attention_dim"),
        (cfg.transformer_config, {"transformer": []}, "transformer"),
        (cfg.video_vae_config, {"vae": {"latent_log_var": "per_channel"}}, "latent_log_var"),
        (
            cfg.video_vae_config,
            {"vae": {"_class_name": "CausalDiffusionVAE", "model_output_type": "noise"}},
            "model_output_type",
        ),
        (cfg.video_vae_config, {"vae": {"decoder_blocks": [["attn_res_x", {}]]}}, "decoder_blocks"),
        (
            cfg.audio_vae_config,
            {"audio_vae": {"model": {"params": {"ddconfig": {"norm_type": "group"}}}}},
            "norm_type",
        ),
        (cfg.upsampler_config, {"dims": 2}, "dims"),
        (cfg.upsampler_config, {"spatial_upsample": False}, "spatial_upsample"),
    ],
)
def test_an_unsupported_value_is_named(read, header, key) -> None:
    with pytest.raises(ValueError, match=key):
        read(header)
