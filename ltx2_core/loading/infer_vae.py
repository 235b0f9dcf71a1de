"""Reconstructs the configuration of the autoencoders and the vocoder from tensor shapes, as header JSON.

``shapes`` always has shapes by official tensor name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Literal

from ..storage.files import JsonObject, JsonValue

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of tensors, by their names in official checkpoints."""


LtxvVae = Literal["A", "B", "C"]
"""The video VAEs of LTX-Video: of 0.9.0, of 0.9.1, and of 0.9.5 and later."""


def ltxv_vae(names: Iterable[str]) -> LtxvVae | None:
    """Which video VAE of LTX-Video has tensors of these official ``names``; None if none has.

    The encoder of "C" is that of LTX-2.0, so that its file alone gives None. The encoders of "A" and "B" are
    the same; without a decoder the result is "B".
    """
    present = frozenset(names)
    strided = "encoder.down_blocks.1.conv.bias" in present
    if "decoder.last_time_embedder.timestep_embedder.linear_1.weight" in present:
        noisy = "decoder.up_blocks.2.res_blocks.0.per_channel_scale1" in present
        return "B" if strided or noisy else "C"
    if any(name.startswith("decoder.up_blocks.") and ".conv_shortcut." in name for name in present):
        return "A"
    return "B" if strided else None


def infer_video_vae(shapes: Shapes) -> JsonObject:
    """Reconstruct the ``vae`` section of the configuration from tensor shapes by official name.

    ``shapes`` may be those of the encoder, the decoder or both.
    """
    config: JsonObject = {}
    if "encoder.conv_in.conv.weight" in shapes:
        base, patched = shapes["encoder.conv_in.conv.weight"][:2]
        config["encoder_base_channels"] = base
        # Three colours in each pixel of a patch.
        config["patch_size"] = math.isqrt(patched // 3)
        # The last channel of the encoder is the log-variance, one for all channels.
        config["latent_channels"] = shapes["encoder.conv_out.conv.weight"][0] - 1
        config["encoder_blocks"] = _video_blocks(shapes, "encoder.down_blocks.", base, "_res", old=False)
    if "decoder.conv_in_x_t.weight" in shapes:
        return _diffusion_vae(shapes, config)
    if "decoder.conv_in.conv.weight" in shapes:
        widest, latent = shapes["decoder.conv_in.conv.weight"][:2]
        patched, base = shapes["decoder.conv_out.conv.weight"][:2]
        # The two released decoder layouts differ in their number of blocks: 7 in 2.0, 9 since 2.3.
        old = count(shapes, "decoder.up_blocks.") <= 7
        config["decoder_base_channels"] = base
        config["patch_size"] = math.isqrt(patched // 3)
        config["latent_channels"] = latent
        config["spatial_padding_mode"] = "reflect" if old else "zeros"
        config["encoder_spatial_padding_mode"] = "zeros"
        config["decoder_blocks"] = _video_blocks(shapes, "decoder.up_blocks.", widest, "", old=old)[::-1]
    return config


def _diffusion_vae(shapes: Shapes, encoder: Mapping[str, JsonValue]) -> JsonObject:
    """Reconstruct the ``vae`` section of the configuration of a video VAE with the diffusion decoder.

    ``shapes`` has the decoder's shapes by official tensor name. ``encoder`` has the encoder's settings,
    already reconstructed; empty if the file has no encoder. Attention windows and strides are left out, so
    that the released ones are used. Raises ValueError unless the decoder begins with the released 2048
    channels.
    """
    width, latent = shapes["decoder.conv_in.weight"]
    if width != 2048:
        raise ValueError(
            f"the windows of a diffusion video decoder of {width} channels do not follow from shapes: a file "
            "with its 'config' metadata is needed"
        )
    decoder: JsonObject = {
        "in_channels": latent,
        "t_emb_dim": shapes["decoder.t_embedder.mlp.0.weight"][0],
    }
    settings: JsonObject = {}
    if encoder:
        names = {"encoder_blocks": "blocks", "encoder_base_channels": "base_channels"}
        settings = {names[key]: value for key, value in encoder.items() if key in names}
        settings["out_channels"] = latent
    return {
        "_class_name": "CausalDiffusionVAE",
        "model_output_type": "x0",
        "encoder": settings,
        "decoder": decoder,
    }


def infer_audio_vae(shapes: Shapes) -> JsonObject:
    """Reconstruct the ``audio_vae`` section of the configuration from tensor shapes by official name.

    The settings of the mel front end (waveform to spectrogram) are left out, because it has no tensors.
    """
    if not shapes:
        return {}
    half, level, first = (
        ("encoder", "down", "conv_in") if "encoder.conv_in.conv.weight" in shapes else _AUDIO_DECODER
    )
    edge = shapes[f"{half}.{first}.conv.weight"]
    channels, audio_channels = edge[:2] if half == "encoder" else edge[1::-1]
    levels = count(shapes, f"{half}.{level}.")
    widths = [shapes[f"{half}.{level}.{i}.block.0.conv1.conv.weight"][0] for i in range(levels)]
    blocks = count(shapes, f"{half}.{level}.0.block.")
    if half == "encoder":
        # Mean and log-variance of each channel.
        z_channels = shapes["encoder.conv_out.conv.weight"][0] // 2
    else:
        z_channels = shapes["decoder.conv_in.conv.weight"][1]
    ddconfig: JsonObject = {
        "ch": channels,
        "ch_mult": [width // channels for width in widths],
        # A decoder has one residual block more per level than its configuration states.
        "num_res_blocks": blocks if half == "encoder" else blocks - 1,
        "z_channels": z_channels,
        "in_channels": audio_channels,
        "out_ch": audio_channels,
    }
    return {"model": {"params": {"ddconfig": ddconfig}}}


def infer_vocoder(shapes: Shapes) -> JsonObject:
    """Reconstruct the ``vocoder`` section of the configuration from tensor shapes by official name.

    The section is flat in LTX-2.0. Since 2.3 it consists of two, ``vocoder`` and ``bwe`` (bandwidth
    extension).
    """
    if not shapes:
        return {}
    if "bwe_generator.conv_pre.weight" not in shapes:
        return _generator(shapes, "", {16: 6, 15: 5, 8: 2, 4: 2}, {"resblock": "1"})
    amp: JsonObject = {"resblock": "AMP1", "activation": "snakebeta"}
    return {
        "vocoder": _generator(shapes, "vocoder.", {11: 5, 4: 2}, amp),
        "bwe": _generator(shapes, "bwe_generator.", {12: 6, 11: 5, 4: 2}, amp),
    }


def count(names: Iterable[str], prefix: str) -> int:
    """The length of a module list: one more than the highest number that follows ``prefix`` in tensor names.

    0 if no name begins with ``prefix``.
    """
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    return 1 + max((int(m[1]) for m in map(pattern.match, names) if m), default=-1)


_AUDIO_DECODER = ("decoder", "up", "conv_out")


def _video_blocks(shapes: Shapes, prefix: str, width: int, suffix: str, *, old: bool) -> list[JsonValue]:
    """Reconstruct the blocks of a video encoder or decoder, each [kind, options], in the order of numbers.

    ``prefix`` precedes the number in tensor names, such as "encoder.down_blocks."; ``width`` is the number of
    channels before the first block. ``suffix`` is appended to the kinds of resamplers, "_res" for an encoder.
    ``old`` selects the decoder of LTX-2.0, whose upsamplers have a skip connection. The kind of a resampler
    follows from the channels of its convolution and of the next block: the larger number is 8 times the
    smaller if time, height and width are resampled, 4 times for height and width, 2 times for time.
    """
    kinds = {8: "compress_all", 4: "compress_space", 2: "compress_time"}
    blocks: list[JsonValue] = []
    for index in range(count(shapes, prefix)):
        layers = count(shapes, f"{prefix}{index}.res_blocks.")
        if layers:
            blocks.append(["res_x", {"num_layers": layers}])
            continue
        out = shapes[f"{prefix}{index}.conv.conv.weight"][0]
        after = shapes[f"{prefix}{index + 1}.res_blocks.0.conv1.conv.weight"][0]
        # An encoder moves neighbouring positions into channels and a decoder channels into positions.
        ratio = max(after, out) // min(after, out)
        if ratio not in kinds:
            raise ValueError(f"{prefix}{index}: {out} and {after} channels fit no supported resampling")
        options: JsonObject = {"multiplier": max(after, width) // min(after, width)}
        if old and not suffix:
            options["residual"] = True
        blocks.append([kinds[ratio] + suffix, options])
        width = after
    return blocks


def _generator(
    shapes: Shapes, prefix: str, rates: Mapping[int, int], fixed: Mapping[str, JsonValue]
) -> JsonObject:
    kernels = [shapes[f"{prefix}ups.{i}.weight"][2] for i in range(count(shapes, f"{prefix}ups."))]
    # A kernel does not determine its stride, but released vocoders use each kernel with one stride.
    if any(kernel not in rates for kernel in kernels):
        raise ValueError(
            f"vocoder kernels {kernels} are not the released ones, so their rates are unknown: "
            "a file with its 'config' metadata is needed"
        )
    # The residual blocks of all stages are in one list, an equal number for each.
    per_stage = count(shapes, f"{prefix}resblocks.") // len(kernels)
    return {
        **fixed,
        "upsample_initial_channel": shapes[f"{prefix}conv_pre.weight"][0],
        "upsample_kernel_sizes": kernels,
        "upsample_rates": [rates[kernel] for kernel in kernels],
        "resblock_kernel_sizes": [
            shapes[f"{prefix}resblocks.{i}.convs1.0.weight"][2] for i in range(per_stage)
        ],
        "use_bias_at_final": f"{prefix}conv_post.bias" in shapes,
    }
