"""Reads the settings of transformer, text connectors, upsampler and duration head from checkpoint JSON.

This package is the only reader of checkpoint JSON. A key that is missing takes the released value, never a
library default. A value that this library does not implement is named in the error.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..storage.files import ParsedJson
from .checked import require, section, unsupported
from .networks import (
    ConnectorConfig,
    DurationHeadConfig,
    RopeConfig,
    TextConfig,
    TransformerConfig,
    UpsamplerConfig,
)

VIDEO_TRANSFORMER = "Transformer3DModel"
"""``_class_name`` of the transformer of LTX-Video; that of LTX-2 has another."""


def transformer_config(config: ParsedJson) -> TransformerConfig:
    """Read the transformer's settings from ``config["transformer"]`` of a checkpoint's header.

    Raises ValueError that names the key for a value that is not supported.
    """
    c = section(config, "transformer")
    # A key that is missing means another value in either family.
    video_only = c.get("_class_name") == VIDEO_TRANSFORMER
    # A setting that is not implemented must not pass: the weights could load all the same and compute
    # something else.
    require(c, "positional_embedding_type", "rope")
    require(c, "qk_norm", "rms_norm")
    require(c, "standardization_norm", "rms_norm")
    require(c, "norm_elementwise_affine", False)
    require(c, "activation_fn", "gelu-approximate")
    require(c, "attention_bias", True)
    require(c, "use_middle_indices_grid", not video_only)
    if not video_only:
        require(c, "causal_temporal_positioning", True)
    require(c, "av_cross_ada_norm", True)
    require(c, "use_audio_video_cross_attention", True)
    require(c, "double_self_attention", False)
    require(c, "only_cross_attention", False)
    require(c, "share_ff", False)
    require(c, "upcast_attention", False)
    require(c, "use_linear_projection", False)
    require(c, "attention_type", "default")
    require(c, "num_vector_embeds", None)
    heads = int(c.get("num_attention_heads", 32))
    # Attention between the streams divides both into the same heads.
    require(c, "audio_num_attention_heads", heads)
    result = TransformerConfig(
        num_layers=int(c.get("num_layers", 48)),
        heads=heads,
        head_dim=int(c.get("attention_head_dim", 128)),
        audio_head_dim=0 if video_only else int(c.get("audio_attention_head_dim", 64)),
        in_channels=int(c.get("in_channels", 128)),
        out_channels=int(c.get("out_channels", 128)),
        audio_in_channels=int(c.get("audio_in_channels", 128)),
        audio_out_channels=int(c.get("audio_out_channels", 128)),
        caption_channels=int(c.get("caption_channels", 4096 if video_only else 3840)),
        # The key that tells the generations apart: 2.0 lacks it, and later headers set it.
        caption_projection=not c.get("caption_proj_before_connector", False),
        gated_attention=bool(c.get("apply_gated_attention", False)),
        cross_attention_adaln=bool(c.get("cross_attention_adaln", False)),
        prompt_adaln=bool(c.get("use_prompt_adaln_single", True)),
        ff_bias=bool(c.get("ff_bias", True)),
        audio_ff_bias=bool(c.get("audio_ff_bias", True)),
        keyframe_embedding=bool(c.get("use_keyframes_abs_pos_embedding", False)),
        rope=_rope(c, video_only=video_only),
        max_pos=_three(c, "positional_embedding_max_pos", (20, 2048, 2048)),
        middle_positions=not video_only,
        norm_before_text=not video_only,
        causal_time=not video_only or bool(c.get("causal_temporal_positioning", False)),
        audio_max_pos=float(c.get("audio_positional_embedding_max_pos", [20])[0]),
        timestep_scale=float(c.get("timestep_scale_multiplier", 1000)),
        # 1000, although several libraries default to 1, which released weights were not trained with.
        cross_timestep_scale=float(c.get("av_ca_timestep_scale_multiplier", 1000)),
        norm_eps=float(c.get("norm_eps", 1e-6)),
        # The code that LTX-Video was trained with ignores the header here, as all public code does.
        qk_norm_eps=1e-5 if video_only else float(c.get("norm_eps", 1e-6)),
    )
    require(c, "cross_attention_dim", result.dim)
    require(c, "audio_cross_attention_dim", result.audio_dim)
    return result


def text_config(config: ParsedJson) -> TextConfig:
    """Read the text connectors' settings, keys of ``config["transformer"]`` of a checkpoint's header.

    Raises ValueError that names the key for a value that is not supported.
    """
    c = section(config, "transformer")
    require(c, "use_embeddings_connector", True)
    require(c, "connector_norm_output", True)
    per_token = bool(c.get("caption_proj_before_connector", False))
    if per_token:
        require(c, "caption_projection_first_linear", False)
        require(c, "caption_projection_second_linear", False)
        require(c, "caption_proj_input_norm", False)
    norm_type = c.get("text_encoder_norm_type")
    # Released headers spell it in lower and in upper case.
    if norm_type is not None and str(norm_type).lower() != "per_token_rms":
        raise unsupported("text_encoder_norm_type", norm_type, "per_token_rms")
    # Released values: 32 heads in 8 layers for 2.3 and later, 30 heads in 2 layers for 2.0.
    heads = int(c.get("connector_num_attention_heads", 32 if per_token else 30))
    head_dim = int(c.get("connector_attention_head_dim", 128))
    layers = int(c.get("connector_num_layers", 8 if per_token else 2))

    def connector(heads: int, head_dim: int, layers: int) -> ConnectorConfig:
        return ConnectorConfig(
            heads=heads,
            head_dim=head_dim,
            num_layers=layers,
            num_registers=int(c.get("connector_num_learnable_registers", 128)),
            gated_attention=bool(c.get("connector_apply_gated_attention", False)),
            ff_bias=bool(c.get("connector_ff_bias", True)),
            max_pos=float(c.get("connector_positional_embedding_max_pos", [4096])[0]),
            # The connectors rotate with the same settings as the transformer.
            rope=_rope(c),
            norm_eps=float(c.get("norm_eps", 1e-6)),
            qk_norm_eps=float(c.get("norm_eps", 1e-6)),
        )

    return TextConfig(
        per_token_norm=per_token,
        video=connector(heads, head_dim, layers),
        audio=connector(
            int(c.get("audio_connector_num_attention_heads", heads)),
            int(c.get("audio_connector_attention_head_dim", head_dim)),
            int(c.get("audio_connector_num_layers", layers)),
        ),
    )


def upsampler_config(config: ParsedJson) -> UpsamplerConfig:
    """Read the configuration of a latent upsampler file, whose keys are at the top level of ``config``.

    Raises ValueError that names the key for a value that is not supported.
    """
    require(config, "dims", 3)
    temporal = bool(config.get("temporal_upsample", False))
    spatial = bool(config.get("spatial_upsample", not temporal))
    if not (spatial or temporal):
        raise ValueError(
            "upsampler config: spatial_upsample and temporal_upsample are both false; one is needed"
        )
    return UpsamplerConfig(
        in_channels=int(config.get("in_channels", 128)),
        mid_channels=int(config.get("mid_channels", 512 if temporal else 1024)),
        blocks_per_stage=int(config.get("num_blocks_per_stage", 4)),
        spatial=spatial,
        temporal=temporal,
        spatial_scale=float(config.get("spatial_scale", 2.0)) if spatial else 1.0,
        rational=bool(config.get("rational_resampler", False)) and spatial and not temporal,
    )


def _rope(c: ParsedJson, *, video_only: bool = False) -> RopeConfig:
    rope_type = c.get("rope_type", "interleaved" if video_only else "split")
    precision = c.get("frequencies_precision", "float32" if video_only else "float64")
    if rope_type not in ("split", "interleaved"):
        raise unsupported("rope_type", rope_type, "split' or 'interleaved")
    if precision not in ("float64", "float32"):
        raise unsupported("frequencies_precision", precision, "float64' or 'float32")
    return RopeConfig(
        theta=float(c.get("positional_embedding_theta", 10000.0)), rope_type=rope_type, precision=precision
    )


def _three(c: ParsedJson, key: str, default: Sequence[float]) -> tuple[float, float, float]:
    values = c.get(key, default)
    if len(values) != 3:
        raise unsupported(key, values, "three numbers")
    return float(values[0]), float(values[1]), float(values[2])


def duration_head_config(config: ParsedJson, *, video_dim: int, audio_dim: int) -> DurationHeadConfig:
    """Read the settings of the duration head from ``config["duration_head"]``, which released files lack.

    ``video_dim`` and ``audio_dim`` are the widths of its input, the encoded text for video and for audio.
    Raises ValueError for settings that do not fit each other.
    """
    c = section(config, "duration_head") if "duration_head" in config else {}
    return DurationHeadConfig(
        video_dim=video_dim,
        audio_dim=audio_dim,
        hidden=int(c.get("pooler_hidden_dim", 256)),
        queries=int(c.get("num_queries", 1)),
        heads=int(c.get("num_pooler_heads", 4)),
        mlp=int(c.get("mlp_hidden", 256)),
    )
