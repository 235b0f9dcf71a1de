"""Header configuration of the trained tiny set: generation 2.3 with widths that two CPU cores can train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...storage.files import JsonObject, JsonValue, ParsedJson
from ...tiny.diffusion_vae import diffusion_vae_config
from ...tiny.settings import tiny_config, tiny_duration_config, tiny_upsampler_config

_VIDEO_WIDTH = 32
_AUDIO_WIDTH = 24


def trained_config() -> ParsedJson:
    """The ``config`` object of the trained checkpoint's header, except for the widths of its transformer.

    Autoencoders and vocoder have other widths than in :func:`ltx2_core.tiny.settings.tiny_config`. The
    transformer still has the widths from there; :func:`.scales.with_transformer` replaces them.
    """
    config: ParsedJson = tiny_config("2.3")
    vae = config["vae"]
    residual = {"resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3, 5]]}
    return merged(
        config,
        {
            "vae": {
                "encoder_base_channels": _VIDEO_WIDTH,
                "decoder_base_channels": _VIDEO_WIDTH,
                "encoder_blocks": _widened(vae["encoder_blocks"], {"compress_time_res": 1}, last=1),
                "decoder_blocks": _widened(vae["decoder_blocks"], {"compress_time": 1}),
            },
            "audio_vae": {"model": {"params": {"ddconfig": {"ch": _AUDIO_WIDTH}}}},
            "vocoder": {
                # Fewer and larger upsampling stages than released: with the same number the last ones would
                # be 1 or 2 wide.
                "vocoder": {
                    "upsample_initial_channel": 128,
                    "upsample_rates": [5, 4, 4, 2],
                    "upsample_kernel_sizes": [11, 8, 8, 4],
                    **residual,
                },
                "bwe": residual,
            },
        },
    )


def trained_upsampler_config() -> JsonObject:
    """The ``config`` object of the trained spatial x2 upsampler's header.

    Its keys are at the top level, not in a section as those of other networks.
    """
    return tiny_upsampler_config() | {"mid_channels": 64}


def trained_duration_config(video_dim: int, audio_dim: int) -> ParsedJson:
    """The ``config`` object of the trained duration head's header; it reads text of these two widths."""
    widths = {"cross_attention_dim": video_dim, "audio_cross_attention_dim": audio_dim}
    return merged(tiny_duration_config(), {"transformer": widths})


def merged(base: ParsedJson, changes: ParsedJson) -> ParsedJson:
    """A copy of ``base`` with the values of ``changes``; JSON objects in both are merged, at any depth."""
    result = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        result[key] = merged(base[key], value) if nested else value
    return result


def _widened(
    blocks: Sequence[tuple[str, JsonObject]], multipliers: dict[str, int], last: int | None = None
) -> JsonValue:
    """Copy a list of (kind, options) blocks, with the width multiplier of some kinds replaced.

    ``multipliers`` maps a kind to its new multiplier. ``last``, if set, is then the multiplier of the last
    block that has one.
    """
    pairs: list[tuple[str, JsonObject]] = [
        (kind, {**options, "multiplier": multipliers[kind]} if kind in multipliers else dict(options))
        for kind, options in blocks
    ]
    if last is not None:
        next(options for kind, options in reversed(pairs) if "multiplier" in options)["multiplier"] = last
    # Lists, as a header gives them back, with which a configuration is compared.
    return [[kind, options] for kind, options in pairs]


def trained_diffusion_vae_config() -> ParsedJson:
    """The ``config`` object of the header of the trained diffusion VAE: the encoder of the trained set."""
    vae = diffusion_vae_config(dict(trained_config()["vae"]))
    changes = {
        "decoder": {
            # The first widths hold all channels of the latent, the last one more than the 12 values of a
            # patch in one frame.
            "stage_channels": [128, 128, 64, 64, 32],
            "stage_depths": [1, 1, 1, 1, 2],
            "stage_kernels": [[3, 3, 3], [3, 3, 3], [3, 3, 3], [3, 5, 5], [3, 5, 5]],
            "upsamples": [[[1, 2, 2], 1], [[2, 1, 1], 2], [[2, 2, 2], 1], [[2, 2, 2], 2]],
            "stage5_kernel": [3, 5, 5],
        }
    }
    return {"vae": merged(vae, changes)}
