"""Reads the settings of the diffusion video VAE of LTX-2.5 from checkpoint JSON."""

from __future__ import annotations

from collections.abc import Sequence

from ..storage.files import JsonObject, JsonValue, ParsedJson
from .checked import require, section, unsupported
from .networks import DiffusionDecoderConfig, DiffusionStage

DIFFUSION_VAE = "CausalDiffusionVAE"

_CHANNELS = (2048, 1024, 512, 512, 256)
_DEPTHS = (4, 6, 4, 2, 8)
_KERNELS = ((3, 7, 7), (3, 7, 7), (3, 5, 5), (3, 5, 5))
_KERNEL = (11, 11, 11)
_UPSAMPLES = (((1, 2, 2), 2), ((2, 1, 1), 2), ((2, 2, 2), 1), ((2, 2, 2), 2))
_ENCODER_BLOCKS: list[JsonValue] = [
    ["res_x", 4],
    ["compress_space_res", {"multiplier": 2}],
    ["res_x", 6],
    ["compress_time_res", {"multiplier": 2}],
    ["res_x", 4],
    ["compress_all_res", {"multiplier": 2}],
    ["res_x", 2],
    ["compress_all_res", {"multiplier": 1}],
    ["res_x", 2],
]
"""The blocks of the encoder of LTX-2.3, which the diffusion VAE shares."""

_MOST = 64
"""Largest allowed number of blocks in a stage, of denoising steps, and of positions along a window's axis."""


def diffusion_decoder_config(c: ParsedJson) -> DiffusionDecoderConfig:
    """Read the decoder's settings from ``c``, the ``vae`` section of a file with the diffusion VAE.

    Missing keys take the released values. Raises ValueError that names the key for a value that is not
    supported.
    """
    d = section(c, "decoder")
    require(d, "_class_name", "NADiffusionDecoder")
    require(d, "resampler_kind", "linear")
    require(d, "spatial_padding_mode", "zeros")
    channels = [_whole("stage_channels", n, 1 << 16) for n in d.get("stage_channels", _CHANNELS)]
    depths = [_whole("stage_depths", n, _MOST) for n in d.get("stage_depths", _DEPTHS)]
    # The list may have an entry for the diffusion stage, which has a key of its own.
    kernels = [_kernel("stage_kernels", k) for k in d.get("stage_kernels", _KERNELS)][: len(channels) - 1]
    ups = [(_strides(strides), _whole("upsamples", r, 64)) for strides, r in d.get("upsamples", _UPSAMPLES)]
    if not len(channels) == len(depths) == len(kernels) + 1 == len(ups) + 1 or not kernels:
        raise ValueError(
            "config keys 'stage_channels', 'stage_depths', 'stage_kernels' and 'upsamples' must describe the "
            f"same stages; got {len(channels)}, {len(depths)}, {len(kernels)} and {len(ups)} entries"
        )
    for width, after, (_, reduction) in zip(channels, channels[1:], ups, strict=False):
        if width != after * reduction:
            raise unsupported("stage_channels", channels, "each width the one before over its reduction")
    head_dim = _whole("head_dim", d.get("head_dim", d.get("na_head_dim", 64)), 1024)
    # Narrower heads leave no values for the rotation by time, and the rotation takes pairs.
    if head_dim % 2 or head_dim < 16 or any(width % head_dim for width in channels):
        raise unsupported("head_dim", head_dim, "an even number from 16 on that divides all stage_channels")
    prediction = c.get("model_output_type", "x0")
    if prediction not in ("x0", "v"):
        raise unsupported("model_output_type", prediction, "x0' or 'v")
    return DiffusionDecoderConfig(
        stages=tuple(
            DiffusionStage(channels=n, depth=depth, kernel=kernel, strides=strides, reduction=reduction)
            for n, depth, kernel, (strides, reduction) in zip(channels, depths, kernels, ups, strict=False)
        ),
        channels=channels[-1],
        depth=depths[-1],
        kernel=_kernel("stage5_kernel", d.get("stage5_kernel", _KERNEL)),
        head_dim=head_dim,
        time_dim=_whole("t_emb_dim", d.get("t_emb_dim", 384), 1 << 16),
        time_scale=float(d.get("timestep_scale_multiplier", 1000.0)),
        steps=_whole("default_num_inference_steps", d.get("default_num_inference_steps", 1), _MOST),
        prediction=prediction,
    )


def encoder_section(c: ParsedJson) -> JsonObject:
    """The settings of the encoder of a diffusion VAE, under the keys that files of 2.3 have for them.

    ``c`` is the ``vae`` section. Raises ValueError for a value that is not supported.
    """
    e = section(c, "encoder")
    d = section(c, "decoder")
    require(e, "_class_name", "Encoder")
    latent = int(d.get("in_channels", e.get("out_channels", c.get("latent_channels", 128))))
    # Three keys state the width of the latent; which one a file has differs.
    require(e, "out_channels", latent)
    require(c, "latent_channels", latent)
    patch_size = int(e.get("patch_size", d.get("patch_size", 4)))
    require(d, "patch_size", patch_size)
    channels = int(e.get("in_channels", 3))
    require(d, "out_channels", channels)
    return {
        # The encoder of a diffusers pipeline is that of a convolutional VAE, whose keys are in no section.
        "encoder_blocks": e.get("blocks", c.get("encoder_blocks", _ENCODER_BLOCKS)),
        "encoder_base_channels": e.get("base_channels", c.get("encoder_base_channels", latent)),
        "encoder_spatial_padding_mode": e.get(
            "spatial_padding_mode", c.get("encoder_spatial_padding_mode", "zeros")
        ),
        "norm_layer": e.get("norm_layer", "pixel_norm"),
        "in_channels": channels,
        "latent_channels": latent,
        "patch_size": patch_size,
        "latent_log_var": _log_var(e),
    }


def _log_var(encoder: ParsedJson) -> str:
    kind = encoder.get("latent_log_var", "constant")
    # Either way the encoder has one more channel, which is not read.
    if kind not in ("constant", "uniform"):
        raise unsupported("latent_log_var", kind, "constant' or 'uniform")
    return "uniform"


def _whole(key: str, value: object, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise unsupported(key, value, f"a whole number from 1 to {most}")
    return value


def _kernel(key: str, sizes: Sequence[int]) -> tuple[int, int, int]:
    time, height, width = _three(key, sizes)
    # An odd window has as many positions before its own as after.
    if not time % 2 == height % 2 == width % 2 == 1:
        raise unsupported(key, list(sizes), "three odd numbers")
    return time, height, width


def _strides(sizes: Sequence[int]) -> tuple[int, int, int]:
    time, height, width = _three("upsamples", sizes)
    if not {time, height, width} <= {1, 2} or height != width:
        raise unsupported("upsamples", list(sizes), "strides of 1 or 2, equal for height and width")
    return time, height, width


def _three(key: str, sizes: Sequence[int]) -> tuple[int, int, int]:
    if len(sizes) != 3:
        raise unsupported(key, sizes, "three numbers")
    time, height, width = (_whole(key, size, _MOST) for size in sizes)
    return time, height, width
