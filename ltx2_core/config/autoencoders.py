"""Reads settings of the autoencoders and the vocoder from the JSON in a checkpoint's header.

A key that is missing takes the released value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from ..storage.files import ParsedJson
from .checked import require, section, unsupported
from .diffusion import DIFFUSION_VAE, diffusion_decoder_config, encoder_section
from .networks import (
    AudioVAEConfig,
    BandwidthExtensionConfig,
    GeneratorConfig,
    PaddingMode,
    VideoBlock,
    VideoVAEConfig,
    VocoderConfig,
)


def video_vae_config(config: ParsedJson, *, comfy: bool = False) -> VideoVAEConfig:
    """Read the video autoencoder's settings from ``config["vae"]`` of a checkpoint's header.

    ``comfy`` gives a key that is missing the value of ComfyUI, where it differs from the official one. Raises
    ValueError that names the key for a value that is not supported.
    """
    c = section(config, "vae")
    require(c, "dims", 3)
    if c.get("_class_name") == DIFFUSION_VAE:
        diffusion = diffusion_decoder_config(c)
        return replace(_convolutional(encoder_section(c)), decoder_blocks=(), diffusion=diffusion)
    require(c, "_class_name", "CausalVideoAutoencoder")
    return _convolutional(c, comfy=comfy)


def _convolutional(c: ParsedJson, *, comfy: bool = False) -> VideoVAEConfig:
    """Read the settings of a video autoencoder with convolutional encoder and decoder from ``c``.

    ``c`` is the ``vae`` section of a header, in which the keys of encoder and decoder are side by side.
    ``comfy`` is that of :func:`video_vae_config`. Raises ValueError that names the key for a value that is
    not supported.
    """
    require(c, "norm_layer", "pixel_norm")
    require(c, "latent_log_var", "uniform")
    require(c, "use_quant_conv", False)
    require(c, "normalize_latent_channels", False)
    conditioned = bool(c.get("timestep_conditioning", False))
    # LTX-Video 0.9.0 has one list of blocks for both halves, and later ones are conditioned on a timestep.
    ltx_video = conditioned or "blocks" in c
    unstated = "zeros" if ltx_video and not comfy else "reflect"
    # Encoder and decoder share one number of channels here.
    require(c, "out_channels", int(c.get("in_channels", 3)))
    # Releases of the official code read different keys; for released files all of them agree.
    padding = c.get("spatial_padding_mode")
    return VideoVAEConfig(
        encoder_blocks=_blocks(c, "encoder_blocks", encoder=True),
        # Checkpoints list the decoder's blocks from its output to its input.
        decoder_blocks=tuple(reversed(_blocks(c, "decoder_blocks", encoder=False))),
        latent_channels=int(c.get("latent_channels", 128)),
        encoder_base_channels=int(c.get("encoder_base_channels", 128)),
        decoder_base_channels=int(c.get("decoder_base_channels", 128)),
        channels=int(c.get("in_channels", 3)),
        patch_size=int(c.get("patch_size", 4)),
        encoder_padding=_padding(c.get("encoder_spatial_padding_mode", padding or "zeros")),
        decoder_padding=_padding(padding or c.get("decoder_spatial_padding_mode", unstated)),
        causal_decoder=bool(c.get("causal_decoder", False)),
        timestep=float(c.get("decode_timestep", 0.05)) if conditioned else None,
        noise_scale=float(c.get("decode_noise_scale", 0.025)) if conditioned else 0.0,
    )


def audio_vae_config(config: ParsedJson) -> AudioVAEConfig:
    """Read the settings of mel front end and audio autoencoder from ``config["audio_vae"]`` of a header.

    Raises ValueError that names the key for a value that is not supported.
    """
    c = section(config, "audio_vae")
    params = c.get("model", {}).get("params", {})
    dd = params.get("ddconfig", {})
    pre = c.get("preprocessing", {})
    stft, mel = pre.get("stft", {}), pre.get("mel", {})
    require(dd, "double_z", True)
    require(dd, "norm_type", "pixel")
    # The axis of time: the official code lays mel spectrograms out as images with time along the height.
    require(dd, "causality_axis", "height")
    require(dd, "mid_block_add_attention", False)
    require(dd, "attn_resolutions", [])
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
    c = section(config, "vocoder")
    # Only the nested form of 2.3 has a bandwidth extension.
    if "bwe" not in c:
        generator = _generator(c, rates=(6, 5, 2, 2, 2), kernels=(16, 15, 8, 4, 4), initial=1024)
        audio = audio_vae_config(config) if "audio_vae" in config else AudioVAEConfig()
        # Headers of 2.0 do not say the rate: it is mel frames per second times samples per mel frame.
        rate = audio.sample_rate * _product(generator.upsample_rates) // audio.hop_length
        return VocoderConfig(generator=generator, sample_rate=rate)
    bwe = section(c, "bwe")
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
            section(c, "vocoder"), rates=(5, 2, 2, 2, 2, 2), kernels=(11, 4, 4, 4, 4, 4), initial=1536
        ),
        sample_rate=extension.output_sample_rate,
        bwe=extension,
    )


def _padding(mode: object) -> PaddingMode:
    if mode == "zeros":
        return "zeros"
    if mode == "reflect":
        return "reflect"
    raise unsupported("spatial_padding_mode", mode, "zeros' or 'reflect")


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


_KINDS = ("res_x", "res_x_y", "compress_space", "compress_time", "compress_all")
_STRIDED = "compress_all"
"""The one downsampling of LTX-Video 0.9.0 and 0.9.1, without the suffix of later ones."""
_FOLDED = "_res"
"""Suffix of a downsampling that folds positions into channels."""


def _blocks(c: ParsedJson, key: str, *, encoder: bool) -> tuple[VideoBlock, ...]:
    # Without blocks in the header the decoder and encoder are those of 2.0.
    entries = c.get(key, c.get("blocks", _ENCODER_20 if encoder else _DECODER_20))
    blocks: list[VideoBlock] = []
    for name, setting in entries:
        # Some headers write the options of a block as its number of layers alone.
        options = setting if isinstance(setting, Mapping) else {"num_layers": setting}
        folded = encoder and name.endswith(_FOLDED)
        kind = name.removesuffix(_FOLDED) if folded else name
        strided = encoder and not folded and name.startswith("compress_")
        if kind not in _KINDS or (strided and name != _STRIDED):
            raise unsupported(key, name, f"res_x', 'res_x_y' or 'compress_*{_FOLDED if encoder else ''}")
        blocks.append(
            VideoBlock(
                kind=kind,
                num_layers=int(options.get("num_layers", 1)),
                # The number next to a "res_x_y" is no factor: it always is 2.
                multiplier=int(options.get("multiplier", 2 if kind == "res_x_y" else 1)),
                residual=bool(options.get("residual", False)),
                strided=strided,
                inject_noise=bool(options.get("inject_noise", False)),
            )
        )
    return tuple(blocks)


def _generator(
    c: ParsedJson, *, rates: Sequence[int], kernels: Sequence[int], initial: int
) -> GeneratorConfig:
    resblock = str(c.get("resblock", "1"))
    if resblock not in ("1", "AMP1"):
        raise unsupported("vocoder.resblock", resblock, "1' or 'AMP1")
    # The key names the kind of residual block; "1" is HiFi-GAN's and AMP1 BigVGAN's.
    amp = resblock == "AMP1"
    if amp:
        require(c, "activation", "snakebeta")
    require(c, "stereo", True)
    final: Literal["tanh", "clamp", "none"] = "tanh"
    if not c.get("apply_final_activation", True):
        final = "none"
    # BigVGAN chooses between tanh and a clamp; HiFi-GAN has tanh alone.
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
