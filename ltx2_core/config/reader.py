"""The only reader of checkpoint JSON.

A key that is missing takes the released value, never a library default. A value that this library does not
implement is named in the error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ..storage.files import ParsedJson
from .networks import (
    AudioVAEConfig,
    BandwidthExtensionConfig,
    ConnectorConfig,
    GeneratorConfig,
    PaddingMode,
    RopeConfig,
    TextConfig,
    TransformerConfig,
    UpsamplerConfig,
    VideoBlock,
    VideoVAEConfig,
    VocoderConfig,
)

DIFFUSION_VAE = "CausalDiffusionVAE"
DIFFUSION_VAE_ADVICE = (
    "this is the diffusion video VAE of LTX-2.5, which is not supported; take the convolutional one, "
    "ltx-2.5-video-vae-conv-bf16, which reads and writes the same latents"
)


def transformer_config(config: ParsedJson) -> TransformerConfig:
    """Read the transformer's settings from ``config["transformer"]`` of a released header.

    Raises ValueError that names the key for a value that is not supported.
    """
    c = _section(config, "transformer")
    # A setting that is not implemented must not pass: the weights could load all the same and compute
    # something else.
    _require(c, "positional_embedding_type", "rope")
    _require(c, "qk_norm", "rms_norm")
    _require(c, "standardization_norm", "rms_norm")
    _require(c, "norm_elementwise_affine", False)
    _require(c, "activation_fn", "gelu-approximate")
    _require(c, "attention_bias", True)
    _require(c, "use_middle_indices_grid", True)
    _require(c, "causal_temporal_positioning", True)
    _require(c, "av_cross_ada_norm", True)
    _require(c, "use_audio_video_cross_attention", True)
    _require(c, "double_self_attention", False)
    _require(c, "only_cross_attention", False)
    _require(c, "share_ff", False)
    _require(c, "upcast_attention", False)
    _require(c, "use_linear_projection", False)
    _require(c, "attention_type", "default")
    _require(c, "num_vector_embeds", None)
    heads = int(c.get("num_attention_heads", 32))
    # Attention between the streams divides both into the same heads.
    _require(c, "audio_num_attention_heads", heads)
    result = TransformerConfig(
        num_layers=int(c.get("num_layers", 48)),
        heads=heads,
        head_dim=int(c.get("attention_head_dim", 128)),
        audio_head_dim=int(c.get("audio_attention_head_dim", 64)),
        in_channels=int(c.get("in_channels", 128)),
        out_channels=int(c.get("out_channels", 128)),
        audio_in_channels=int(c.get("audio_in_channels", 128)),
        audio_out_channels=int(c.get("audio_out_channels", 128)),
        caption_channels=int(c.get("caption_channels", 3840)),
        caption_projection=not c.get("caption_proj_before_connector", False),
        gated_attention=bool(c.get("apply_gated_attention", False)),
        cross_attention_adaln=bool(c.get("cross_attention_adaln", False)),
        prompt_adaln=bool(c.get("use_prompt_adaln_single", True)),
        ff_bias=bool(c.get("ff_bias", True)),
        audio_ff_bias=bool(c.get("audio_ff_bias", True)),
        keyframe_embedding=bool(c.get("use_keyframes_abs_pos_embedding", False)),
        rope=_rope(c),
        max_pos=_three(c, "positional_embedding_max_pos", (20, 2048, 2048)),
        audio_max_pos=float(c.get("audio_positional_embedding_max_pos", [20])[0]),
        timestep_scale=float(c.get("timestep_scale_multiplier", 1000)),
        # 1000, although several libraries default to 1, which released weights were not trained with.
        cross_timestep_scale=float(c.get("av_ca_timestep_scale_multiplier", 1000)),
        norm_eps=float(c.get("norm_eps", 1e-6)),
        qk_norm_eps=float(c.get("norm_eps", 1e-6)),
    )
    _require(c, "cross_attention_dim", result.dim)
    _require(c, "audio_cross_attention_dim", result.audio_dim)
    return result


def text_config(config: ParsedJson) -> TextConfig:
    """Read the text connectors' settings, which are keys of ``config["transformer"]``.

    Raises ValueError that names the key for a value that is not supported.
    """
    c = _section(config, "transformer")
    _require(c, "use_embeddings_connector", True)
    _require(c, "connector_norm_output", True)
    per_token = bool(c.get("caption_proj_before_connector", False))
    if per_token:
        _require(c, "caption_projection_first_linear", False)
        _require(c, "caption_projection_second_linear", False)
        _require(c, "caption_proj_input_norm", False)
    norm_type = c.get("text_encoder_norm_type")
    # Released headers spell it in lower and in upper case.
    if norm_type is not None and str(norm_type).lower() != "per_token_rms":
        raise _unsupported("text_encoder_norm_type", norm_type, "per_token_rms")
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


def video_vae_config(config: ParsedJson) -> VideoVAEConfig:
    """Read the video autoencoder's settings from ``config["vae"]``.

    Raises ValueError that names the key for a value that is not supported, such as the diffusion VAE of 2.5.
    """
    c = _section(config, "vae")
    if c.get("_class_name") == DIFFUSION_VAE:
        raise ValueError(DIFFUSION_VAE_ADVICE)
    _require(c, "_class_name", "CausalVideoAutoencoder")
    _require(c, "dims", 3)
    _require(c, "norm_layer", "pixel_norm")
    _require(c, "latent_log_var", "uniform")
    _require(c, "use_quant_conv", False)
    _require(c, "timestep_conditioning", False)
    _require(c, "normalize_latent_channels", False)
    _require(c, "out_channels", int(c.get("in_channels", 3)))
    # Releases of the official code read different keys; for released files all of them agree.
    padding = c.get("spatial_padding_mode")
    return VideoVAEConfig(
        encoder_blocks=_blocks(c, "encoder_blocks", suffix="_res"),
        # Checkpoints list the decoder's blocks from its output to its input.
        decoder_blocks=tuple(reversed(_blocks(c, "decoder_blocks", suffix=""))),
        latent_channels=int(c.get("latent_channels", 128)),
        encoder_base_channels=int(c.get("encoder_base_channels", 128)),
        decoder_base_channels=int(c.get("decoder_base_channels", 128)),
        channels=int(c.get("in_channels", 3)),
        patch_size=int(c.get("patch_size", 4)),
        encoder_padding=_padding(c.get("encoder_spatial_padding_mode", padding or "zeros")),
        decoder_padding=_padding(padding or c.get("decoder_spatial_padding_mode", "reflect")),
        causal_decoder=bool(c.get("causal_decoder", False)),
    )


def audio_vae_config(config: ParsedJson) -> AudioVAEConfig:
    """Read the settings of mel front end and audio autoencoder from ``config["audio_vae"]``.

    Raises ValueError that names the key for a value that is not supported.
    """
    c = _section(config, "audio_vae")
    params = c.get("model", {}).get("params", {})
    dd = params.get("ddconfig", {})
    pre = c.get("preprocessing", {})
    stft, mel = pre.get("stft", {}), pre.get("mel", {})
    _require(dd, "double_z", True)
    _require(dd, "norm_type", "pixel")
    _require(dd, "causality_axis", "height")
    _require(dd, "mid_block_add_attention", False)
    _require(dd, "attn_resolutions", [])
    return AudioVAEConfig(
        channels=int(dd.get("ch", 128)),
        channel_mult=tuple(int(m) for m in dd.get("ch_mult", (1, 2, 4))),
        num_res_blocks=int(dd.get("num_res_blocks", 2)),
        z_channels=int(dd.get("z_channels", 8)),
        in_channels=int(dd.get("in_channels", 2)),
        out_channels=int(dd.get("out_ch", 2)),
        mel_bins=int(dd.get("mel_bins", 64)),
        sample_rate=int(params.get("sampling_rate", 16000)),
        n_fft=int(stft.get("filter_length", 1024)),
        win_length=int(stft.get("win_length", 1024)),
        hop_length=int(stft.get("hop_length", 160)),
        mel_fmin=float(mel.get("mel_fmin", 0)),
        mel_fmax=float(mel.get("mel_fmax", 8000)),
    )


def vocoder_config(config: ParsedJson) -> VocoderConfig:
    """Read the vocoder's settings from ``config["vocoder"]``, which is flat in 2.0 and nested in 2.3.

    The nested form has the keys ``vocoder`` and ``bwe`` (bandwidth extension). Raises ValueError that names
    the key for a value that is not supported.
    """
    c = _section(config, "vocoder")
    # Only the nested form of 2.3 has a bandwidth extension.
    if "bwe" not in c:
        generator = _generator(c, rates=(6, 5, 2, 2, 2), kernels=(16, 15, 8, 4, 4), initial=1024)
        audio = audio_vae_config(config) if "audio_vae" in config else AudioVAEConfig()
        # Headers of 2.0 do not say the rate: it is mel frames per second times samples per mel frame.
        rate = audio.sample_rate * _product(generator.upsample_rates) // audio.hop_length
        return VocoderConfig(generator=generator, sample_rate=rate)
    bwe = _section(c, "bwe")
    extension = BandwidthExtensionConfig(
        generator=_generator(
            # Its output is only the missing band; the sum with the waveform is clamped.
            {"apply_final_activation": False, **bwe},
            rates=(6, 5, 2, 2, 2),
            kernels=(12, 11, 4, 4, 4),
            initial=512,
        ),
        input_sample_rate=int(bwe.get("input_sampling_rate", 16000)),
        output_sample_rate=int(bwe.get("output_sampling_rate", 48000)),
        n_fft=int(bwe.get("n_fft", 512)),
        win_length=int(bwe.get("win_size", bwe.get("n_fft", 512))),
        hop_length=int(bwe.get("hop_length", 80)),
        mel_bins=int(bwe.get("num_mels", 64)),
    )
    return VocoderConfig(
        generator=_generator(
            _section(c, "vocoder"), rates=(5, 2, 2, 2, 2, 2), kernels=(11, 4, 4, 4, 4, 4), initial=1536
        ),
        sample_rate=extension.output_sample_rate,
        bwe=extension,
    )


def upsampler_config(config: ParsedJson) -> UpsamplerConfig:
    """Read the configuration of a latent upsampler file, whose keys are at the top level of ``config``.

    Raises ValueError that names the key for a value that is not supported.
    """
    _require(config, "dims", 3)
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


def _section(config: ParsedJson, name: str) -> ParsedJson:
    section = config.get(name, {})
    if not isinstance(section, Mapping):
        raise ValueError(f"config key {name!r} must be an object; got {type(section).__name__}")
    return section


def _require(c: ParsedJson, key: str, value: object) -> None:
    """Raise ValueError if ``key`` is present with another value than the only one supported."""
    # A missing key is fine: files of older generations lack the newer keys.
    if key in c and c[key] != value:
        raise _unsupported(key, c[key], value)


def _unsupported(key: str, value: object, allowed: object) -> ValueError:
    return ValueError(
        f"config key {key!r} is {value!r}; only {allowed!r} is supported. "
        "This is not a released LTX-2 configuration, or it needs a newer version of this package."
    )


def _rope(c: ParsedJson) -> RopeConfig:
    rope_type = c.get("rope_type", "split")
    precision = c.get("frequencies_precision", "float64")
    if rope_type not in ("split", "interleaved"):
        raise _unsupported("rope_type", rope_type, "split' or 'interleaved")
    if precision not in ("float64", "float32"):
        raise _unsupported("frequencies_precision", precision, "float64' or 'float32")
    return RopeConfig(
        theta=float(c.get("positional_embedding_theta", 10000.0)), rope_type=rope_type, precision=precision
    )


def _three(c: ParsedJson, key: str, default: Sequence[float]) -> tuple[float, float, float]:
    values = c.get(key, default)
    if len(values) != 3:
        raise _unsupported(key, values, "three numbers")
    return float(values[0]), float(values[1]), float(values[2])


def _padding(mode: object) -> PaddingMode:
    if mode == "zeros":
        return "zeros"
    if mode == "reflect":
        return "reflect"
    raise _unsupported("spatial_padding_mode", mode, "zeros' or 'reflect")


def _block(kind: str, multiplier: int = 1, num_layers: int = 1, residual: bool = False) -> list[Any]:
    return [kind, {"num_layers": num_layers, "multiplier": multiplier, "residual": residual}]


_ENCODER_20 = [
    _block("res_x", num_layers=4),
    _block("compress_space_res", 2),
    _block("res_x", num_layers=6),
    _block("compress_time_res", 2),
    _block("res_x", num_layers=6),
    _block("compress_all_res", 2),
    _block("res_x", num_layers=2),
    _block("compress_all_res", 2),
    _block("res_x", num_layers=2),
]
_DECODER_20 = [
    _block("res_x", num_layers=5),
    *(
        block
        for _ in range(3)
        for block in (_block("compress_all", 2, residual=True), _block("res_x", num_layers=5))
    ),
]


def _blocks(c: ParsedJson, key: str, suffix: str) -> tuple[VideoBlock, ...]:
    # Without blocks in the header the decoder and encoder are those of 2.0.
    entries = c.get(key, _ENCODER_20 if suffix else _DECODER_20)
    blocks: list[VideoBlock] = []
    for name, setting in entries:
        # Some headers write the options of a block as its number of layers alone.
        options = setting if isinstance(setting, Mapping) else {"num_layers": setting}
        # Released networks add no noise, and this library has no layer for it.
        _require(options, "inject_noise", False)
        kind = name
        if name != "res_x" and suffix:
            if not name.endswith(suffix):
                raise _unsupported(key, name, f"res_x' or 'compress_*{suffix}")
            kind = name[: -len(suffix)]
        if kind not in ("res_x", "compress_space", "compress_time", "compress_all"):
            raise _unsupported(key, name, "res_x' or 'compress_{space,time,all}")
        blocks.append(
            VideoBlock(
                kind=kind,
                num_layers=int(options.get("num_layers", 1)),
                multiplier=int(options.get("multiplier", 1)),
                residual=bool(options.get("residual", False)),
            )
        )
    return tuple(blocks)


def _generator(
    c: ParsedJson, *, rates: Sequence[int], kernels: Sequence[int], initial: int
) -> GeneratorConfig:
    resblock = str(c.get("resblock", "1"))
    if resblock not in ("1", "AMP1"):
        raise _unsupported("vocoder.resblock", resblock, "1' or 'AMP1")
    # The key names the kind of residual block; "1" is HiFi-GAN's and AMP1 BigVGAN's.
    amp = resblock == "AMP1"
    if amp:
        _require(c, "activation", "snakebeta")
    _require(c, "stereo", True)
    final: Literal["tanh", "clamp", "none"] = "tanh"
    if not c.get("apply_final_activation", True):
        final = "none"
    elif not c.get("use_tanh_at_final", not amp):
        final = "clamp"
    return GeneratorConfig(
        initial_channels=int(c.get("upsample_initial_channel", initial)),
        upsample_rates=tuple(c.get("upsample_rates", rates)),
        upsample_kernels=tuple(c.get("upsample_kernel_sizes", kernels)),
        resblock_kernels=tuple(c.get("resblock_kernel_sizes", (3, 7, 11))),
        resblock_dilations=tuple(tuple(d) for d in c.get("resblock_dilation_sizes", ((1, 3, 5),) * 3)),
        amp=amp,
        final_bias=bool(c.get("use_bias_at_final", not amp)),
        final_activation=final,
    )


def _product(values: Sequence[int]) -> int:
    result = 1
    for value in values:
        result *= value
    return result
