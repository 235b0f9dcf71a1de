"""Header configuration of the tiny models: structure and constants of the released ones, with small widths.

What ComfyUI assumes is not changed: 128 latent channels, 128 registers, compression by 8 in time and by 32 in
height and width, and three levels of the audio autoencoder.
"""

from __future__ import annotations

from typing import Literal

from ..storage.files import JsonObject, JsonValue

TinyGeneration = Literal["2.0", "2.3", "2.5", "ltxv-2b"]

# Video heads are twice as wide as audio heads, as in released models, so that code that mixes up the two
# widths fails on the tiny set as well.
HEADS = 4
NEW_IN_25: JsonObject = {"ff_bias": False, "use_keyframes_abs_pos_embedding": True}
"""What the transformer of LTX-2.5 has in its settings in addition to those of 2.3."""
VIDEO_HEAD_DIM = 16
AUDIO_HEAD_DIM = 8
TEXT_WIDTH = 64
TEXT_LAYERS = 4
VIDEO_BASE_CHANNELS = 4
AUDIO_BASE_CHANNELS = 8


def tiny_config(generation: TinyGeneration) -> JsonObject:
    """Build the ``config`` object for the header of a tiny single-file checkpoint of ``generation``."""
    if generation == "ltxv-2b":
        return {"transformer": _ltxv_transformer(), "vae": _ltxv_vae(), "scheduler": _SCHEDULER}
    late = generation != "2.0"
    return {
        "transformer": _transformer(late=late) | (NEW_IN_25 if generation == "2.5" else {}),
        "vae": _video_vae(late=late),
        "audio_vae": _audio_vae(),
        "vocoder": _vocoder_23() if late else _vocoder_20(),
        "scheduler": _SCHEDULER,
    }


_SCHEDULER: JsonObject = {
    "_class_name": "RectifiedFlowScheduler",
    "sampler": "LinearQuadratic",
    "shifting": None,
}


def tiny_duration_config() -> JsonObject:
    """Build the header's ``config`` of a tiny duration head, which predicts a clip's length from a prompt."""
    return {
        "transformer": {
            "cross_attention_dim": HEADS * VIDEO_HEAD_DIM,
            "audio_cross_attention_dim": HEADS * AUDIO_HEAD_DIM,
        },
        "duration_head": {"pooler_hidden_dim": 32, "mlp_hidden": 48, "num_pooler_heads": 4},
    }


def tiny_upsampler_config() -> JsonObject:
    """Build the ``config`` object for the header of a tiny spatial x2 upsampler.

    Its group norms need a multiple of 32 channels.
    """
    return {
        "_class_name": "LatentUpsampler",
        "in_channels": 128,
        "mid_channels": 32,
        "num_blocks_per_stage": 1,
        "dims": 3,
        "spatial_upsample": True,
        "temporal_upsample": False,
        "spatial_scale": 2.0,
        "rational_resampler": False,
    }


def _transformer(*, late: bool) -> JsonObject:
    config: JsonObject = {
        "_class_name": "AVTransformer3DModel",
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        # Two, so that there is a first block and another one after it, for caches, forks and guidance by
        # block.
        "num_layers": 2,
        "num_attention_heads": HEADS,
        "attention_head_dim": VIDEO_HEAD_DIM,
        "cross_attention_dim": HEADS * VIDEO_HEAD_DIM,
        "audio_num_attention_heads": HEADS,
        "audio_attention_head_dim": AUDIO_HEAD_DIM,
        "audio_cross_attention_dim": HEADS * AUDIO_HEAD_DIM,
        "in_channels": 128,
        "out_channels": 128,
        "audio_in_channels": 128,
        "audio_out_channels": 128,
        "caption_channels": TEXT_WIDTH,
        "norm_elementwise_affine": False,
        "norm_eps": 1e-6,
        "qk_norm": "rms_norm",
        "standardization_norm": "rms_norm",
        "positional_embedding_type": "rope",
        "positional_embedding_theta": 10000.0,
        "positional_embedding_max_pos": [20, 2048, 2048],
        "audio_positional_embedding_max_pos": [20],
        "rope_type": "split",
        "frequencies_precision": "float64",
        "use_middle_indices_grid": True,
        "causal_temporal_positioning": True,
        "timestep_scale_multiplier": 1000,
        "av_ca_timestep_scale_multiplier": 1000.0,
        "use_audio_video_cross_attention": True,
        "av_cross_ada_norm": True,
        "share_ff": False,
        "use_embeddings_connector": True,
        "connector_norm_output": True,
        "connector_num_layers": 1,
        "connector_num_attention_heads": HEADS,
        "connector_attention_head_dim": VIDEO_HEAD_DIM,
        "connector_num_learnable_registers": 128,
        "connector_positional_embedding_max_pos": [4096],
    }
    if late:
        config |= {
            "apply_gated_attention": True,
            "cross_attention_adaln": True,
            "caption_proj_before_connector": True,
            "caption_projection_first_linear": False,
            "caption_projection_second_linear": False,
            "caption_proj_input_norm": False,
            "text_encoder_norm_type": "per_token_rms",
            "connector_apply_gated_attention": True,
            "audio_connector_num_attention_heads": HEADS,
            "audio_connector_attention_head_dim": AUDIO_HEAD_DIM,
        }
    return config


def _ltxv_transformer() -> JsonObject:
    return {
        "_class_name": "Transformer3DModel",
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "num_layers": 2,
        "num_attention_heads": HEADS,
        "attention_head_dim": VIDEO_HEAD_DIM,
        "cross_attention_dim": HEADS * VIDEO_HEAD_DIM,
        "in_channels": 128,
        "out_channels": 128,
        "caption_channels": TEXT_WIDTH,
        "norm_elementwise_affine": False,
        "norm_eps": 1e-6,
        "qk_norm": "rms_norm",
        "standardization_norm": "rms_norm",
        "positional_embedding_type": "rope",
        "positional_embedding_theta": 10000.0,
        "positional_embedding_max_pos": [20, 2048, 2048],
        "timestep_scale_multiplier": 1000,
        "causal_temporal_positioning": True,
    }


def _ltxv_vae() -> JsonObject:
    vae = _video_vae(late=False)
    return {**vae, "timestep_conditioning": True}


def _video_vae(*, late: bool) -> JsonObject:
    encoder = [
        ("compress_space_res", 2),
        ("compress_time_res", 2),
        ("compress_all_res", 2),
        ("compress_all_res", 2),
    ]
    decoder: list[tuple[str, JsonObject]]
    if late:
        decoder = [
            ("compress_space", {"multiplier": 2}),
            ("compress_time", {"multiplier": 2}),
            ("compress_all", {"multiplier": 1}),
            ("compress_all", {"multiplier": 2}),
        ]
    else:
        # 2.0 has three residual upsamplers of one kind, 2.3 four plain ones of different kinds: the set
        # covers both.
        decoder = [("compress_all", {"multiplier": 2, "residual": True})] * 3
    return {
        "_class_name": "CausalVideoAutoencoder",
        "dims": 3,
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 128,
        "patch_size": 4,
        "encoder_base_channels": VIDEO_BASE_CHANNELS,
        "decoder_base_channels": VIDEO_BASE_CHANNELS,
        "encoder_blocks": _with_res_blocks([(name, {"multiplier": m}) for name, m in encoder]),
        "decoder_blocks": _with_res_blocks(decoder),
        "norm_layer": "pixel_norm",
        "latent_log_var": "uniform",
        "use_quant_conv": False,
        "scaling_factor": 1.0,
        "causal_decoder": False,
        "timestep_conditioning": False,
        # As in released files: 2.0 has no padding keys, and readers then pad the decoder by reflection.
        **({"spatial_padding_mode": "zeros", "encoder_spatial_padding_mode": "zeros"} if late else {}),
    }


def _with_res_blocks(resamplers: list[tuple[str, JsonObject]]) -> list[JsonValue]:
    """A list of blocks with a residual block before, between and after ``resamplers`` (name, options).

    ComfyUI detects the decoder's version by the last residual block.
    """
    blocks: list[JsonValue] = [["res_x", {"num_layers": 1}]]
    for name, options in resamplers:
        blocks += [[name, dict(options)], ["res_x", {"num_layers": 1}]]
    return blocks


def _audio_vae() -> JsonObject:
    return {
        "model": {
            "params": {
                "ddconfig": {
                    "double_z": True,
                    "mel_bins": 64,
                    "z_channels": 8,
                    "resolution": 256,
                    "downsample_time": False,
                    "in_channels": 2,
                    "out_ch": 2,
                    "ch": AUDIO_BASE_CHANNELS,
                    "ch_mult": [1, 2, 4],
                    "num_res_blocks": 1,
                    "attn_resolutions": [],
                    "dropout": 0.0,
                    "mid_block_add_attention": False,
                    "norm_type": "pixel",
                    "causality_axis": "height",
                },
                "sampling_rate": 16000,
            }
        },
        "preprocessing": {
            "audio": {"sampling_rate": 16000, "max_wav_value": 32768.0},
            "stft": {"filter_length": 1024, "hop_length": 160, "win_length": 1024, "causal": True},
            "mel": {"n_mel_channels": 64, "mel_fmin": 0, "mel_fmax": 8000},
        },
    }


_RESBLOCKS: JsonObject = {
    "resblock_kernel_sizes": [3, 7, 11],
    "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5]],
    "stereo": True,
}


def _vocoder_20() -> JsonObject:
    return {
        "resblock": "1",
        "upsample_initial_channel": 32,
        # 240 samples a mel frame, which is 24 kHz.
        "upsample_rates": [6, 5, 2, 2, 2],
        "upsample_kernel_sizes": [16, 15, 8, 4, 4],
        **_RESBLOCKS,
    }


def _vocoder_23() -> JsonObject:
    # Each upsampling halves the channels: six need a multiple of 64 channels, five a multiple of 32.
    amp: JsonObject = {
        "resblock": "AMP1",
        "activation": "snakebeta",
        "use_tanh_at_final": False,
        "use_bias_at_final": False,
        **_RESBLOCKS,
    }
    return {
        "vocoder": {
            "upsample_initial_channel": 64,
            # 160 samples a mel frame, which is 16 kHz.
            "upsample_rates": [5, 2, 2, 2, 2, 2],
            "upsample_kernel_sizes": [11, 4, 4, 4, 4, 4],
            **amp,
        },
        "bwe": {
            "upsample_initial_channel": 32,
            "upsample_rates": [6, 5, 2, 2, 2],
            "upsample_kernel_sizes": [12, 11, 4, 4, 4],
            "apply_final_activation": False,
            "input_sampling_rate": 16000,
            "output_sampling_rate": 48000,
            # 80 samples at 16 kHz become 240 at 48 kHz, the product of the rates above.
            "hop_length": 80,
            "n_fft": 512,
            "win_size": 512,
            "num_mels": 64,
            **amp,
        },
    }
