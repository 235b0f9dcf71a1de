"""Builds the network of each component on the ``meta`` device from the configuration in a file's header."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypedDict

from torch import nn

from .. import config as cfg
from ..storage.files import ParsedJson
from ..types import Numerics
from .detect import Component

Shapes = Mapping[str, tuple[int, ...]]
"""Official tensor name -> shape."""


class _Options(TypedDict):
    """Keyword arguments that the constructor of every network takes: the device and the layer classes."""

    device: str
    operations: Any


COMFY_QK_NORM_EPS = 1e-5
"""Epsilon of ComfyUI's query and key norms; it ignores the checkpoint's value."""


def build(
    component: Component, config: ParsedJson, shapes: Shapes, *, operations: Any, numerics: Numerics
) -> nn.Module:
    """Build the network of ``component`` on the ``meta`` device, which allocates no memory.

    ``config`` is the header's configuration. ``shapes`` has the shapes of the file's tensors by official
    name, from which the text projection gets its width. ``operations`` is the namespace of layer classes,
    torch.nn or that of a host such as ComfyUI; ``numerics`` selects the official implementation or ComfyUI
    where they differ. Raises ValueError for a configuration that is not supported, is malformed or has more
    than 1000 layers.
    """
    _check_counts(config)
    try:
        return _BUILDERS[component](config, shapes, {"device": "meta", "operations": operations}, numerics)
    except (TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError) as error:
        raise ValueError(f"the configuration is malformed: {error!r}") from error


_COUNTS = ("num_layers", "num_res_blocks", "num_blocks_per_stage")
_MOST = 1000


def _check_counts(value: object) -> None:
    """Raise ValueError if a number of layers anywhere in the configuration ``value`` is not from 0 to 1000.

    A damaged header may state billions of layers.
    """
    if isinstance(value, Mapping):
        for key, entry in value.items():
            if str(key).endswith(_COUNTS) and isinstance(entry, (int, float)) and not 0 <= entry <= _MOST:
                raise ValueError(f"config key {key!r} is {entry!r}; a number from 0 to {_MOST} is expected")
            _check_counts(entry)
    elif isinstance(value, list):
        for entry in value:
            _check_counts(entry)


# Networks are imported only when they are built: inspecting a file needs none of them, and importing the
# text encoder's library alone takes seconds.


def _transformer(config: ParsedJson, shapes: Shapes, options: _Options, numerics: Numerics) -> nn.Module:
    from ..transformer import Transformer

    settings = cfg.transformer_config(config)
    # ComfyUI ignores the epsilon of the checkpoint in its query and key norms.
    if numerics.is_comfy:
        settings = as_comfy(settings, numerics)
    return Transformer(settings, **options)


def as_comfy(config: cfg.TransformerConfig, numerics: Numerics) -> cfg.TransformerConfig:
    """Return the transformer's settings ``config``, changed to those with which ComfyUI computes.

    The epsilon of the query and key norms becomes that of ComfyUI. ``numerics`` is a version of ComfyUI. With
    ``COMFY_033`` the audio attends to the video after the same block has updated the video by the audio, with
    other versions to the video before this update.
    """
    late = numerics is Numerics.COMFY_033
    return replace(config, qk_norm_eps=COMFY_QK_NORM_EPS, audio_reads_updated_video=late)


def _connectors(config: ParsedJson, shapes: Shapes, options: _Options, numerics: Numerics) -> nn.Module:
    from ..text import TextConnectors

    return TextConnectors(_text_config(config, numerics), **options)


def _projection(config: ParsedJson, shapes: Shapes, options: _Options, numerics: Numerics) -> nn.Module:
    from ..text import FeatureExtractor

    hidden = cfg.transformer_config(config).caption_channels
    name = next((n for n in ("aggregate_embed.weight", "video_aggregate_embed.weight") if n in shapes), None)
    # The number of hidden states follows from the width, since no header states it.
    flat = shapes[name][-1] if name else 0
    if not flat or flat % hidden:
        raise ValueError(
            f"the text projection takes {flat} values, which is not a multiple of caption_channels={hidden}, "
            "the width of the text encoder: file and configuration do not belong together"
        )
    return FeatureExtractor(_text_config(config, numerics), hidden, flat // hidden, **options)


def _video_encoder(config: ParsedJson, shapes: Shapes, options: _Options, numerics: Numerics) -> nn.Module:
    from ..video_vae import VideoEncoder

    return VideoEncoder(cfg.video_vae_config(config), **options)


def _video_decoder(config: ParsedJson, shapes: Shapes, options: _Options, numerics: Numerics) -> nn.Module:
    from ..video_vae import DiffusionVideoDecoder, VolumeNoise, build_decoder

    decoder = build_decoder(cfg.video_vae_config(config, comfy=numerics.is_comfy), **options)
    if isinstance(decoder, DiffusionVideoDecoder) and numerics.is_comfy:
        # ComfyUI has one seed for all clips, and smaller windows instead of padding.
        decoder.noise, decoder.pad_small = VolumeNoise(0), False
    return decoder


def _audio_encoder(config: ParsedJson, shapes: Shapes, options: _Options, numerics: Numerics) -> nn.Module:
    from ..audio import AudioEncoder

    return AudioEncoder(cfg.audio_vae_config(config), **options)


def _audio_decoder(config: ParsedJson, shapes: Shapes, options: _Options, numerics: Numerics) -> nn.Module:
    from ..audio import AudioDecoder

    return AudioDecoder(cfg.audio_vae_config(config), **options)


def _vocoder(config: ParsedJson, shapes: Shapes, options: _Options, numerics: Numerics) -> nn.Module:
    from ..audio import build_vocoder

    return build_vocoder(cfg.vocoder_config(config), **options)


def _upsampler(config: ParsedJson, shapes: Shapes, options: _Options, numerics: Numerics) -> nn.Module:
    from ..upsampler import LatentUpsampler

    return LatentUpsampler(cfg.upsampler_config(config), **options)


def _duration_head(config: ParsedJson, shapes: Shapes, options: _Options, numerics: Numerics) -> nn.Module:
    from ..text.duration import DurationHead

    # The widths of both texts are those of the transformer, whose configuration this file may lack.
    video, audio = (shapes[f"{stream}_input_proj.weight"][-1] for stream in ("video", "audio"))
    return DurationHead(cfg.duration_head_config(config, video_dim=video, audio_dim=audio), **options)


def _text_config(config: ParsedJson, numerics: Numerics) -> cfg.TextConfig:
    settings = cfg.text_config(config)
    if not numerics.is_comfy:
        return settings
    return replace(
        settings,
        video=replace(settings.video, qk_norm_eps=COMFY_QK_NORM_EPS),
        audio=replace(settings.audio, qk_norm_eps=COMFY_QK_NORM_EPS),
    )


_BUILDERS: Mapping[Component, Callable[[ParsedJson, Shapes, _Options, Numerics], nn.Module]] = {
    Component.TRANSFORMER: _transformer,
    Component.TEXT_CONNECTORS: _connectors,
    Component.TEXT_PROJECTION: _projection,
    Component.VIDEO_ENCODER: _video_encoder,
    Component.VIDEO_DECODER: _video_decoder,
    Component.AUDIO_ENCODER: _audio_encoder,
    Component.AUDIO_DECODER: _audio_decoder,
    Component.VOCODER: _vocoder,
    Component.UPSAMPLER: _upsampler,
    Component.DURATION_HEAD: _duration_head,
}
