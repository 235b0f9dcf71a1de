"""Sizes of the released models, so that a run can be planned before anything is downloaded."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Literal

from torch import nn

from ..config import (
    TransformerConfig,
    audio_vae_config,
    text_config,
    transformer_config,
    video_vae_config,
    vocoder_config,
)
from ..config.reader import VIDEO_TRANSFORMER
from ..storage.files import JsonObject, JsonValue
from ..text.connectors import TextConnectors
from ..transformer import Transformer
from ..video_vae import VideoDecoder
from .audio_stage import AudioSize
from .plan import ModelSize
from .text_stage import TextSize

Released = Literal["2.0", "2.3", "2.5", "ltxv-2b", "ltxv-13b"]
"""A generation of LTX-2, or one of the two sizes of LTX-Video."""
Stored = Literal["bf16", "fp8", "int8"]
RELEASED: tuple[Released, ...] = ("2.0", "2.3", "2.5", "ltxv-2b", "ltxv-13b")
STORED: dict[Stored, int] = {"bf16": 2, "fp8": 1, "int8": 1}
"""How the weights of the transformer's blocks are stored -> bytes per weight."""

_INT8 = "int8"
"""Files of this kind have the text connectors and the layers of the text encoder in eight bits, too."""

# Constants, because transformers would have to be imported to count them, which takes seconds.
_GEMMA = {"2.0": 11_770_000_000, "2.3": 11_770_000_000, "2.5": 11_910_000_000}
"""Parameters of the language model of each release: Gemma 3 12B, in 2.5 Gemma 4 12B."""

_GEMMA_HIDDEN, _GEMMA_INTERMEDIATE = 3840, 15360
_GEMMA_EMBEDDING = 262_144 * _GEMMA_HIDDEN
"""Weights of the embedding of tokens, which every file has in two bytes."""

_PROJECTION = {"2.0": 188_160 * 3840, "2.3": 188_160 * 6144, "2.5": 188_160 * 6144}
"""Parameters of the projection from all hidden states of Gemma to text features."""

NEW_CONFIG: JsonObject = {
    "caption_proj_before_connector": True,
    "apply_gated_attention": True,
    "cross_attention_adaln": True,
    "connector_apply_gated_attention": True,
    "audio_connector_attention_head_dim": 64,
    "text_encoder_norm_type": "per_token_rms",
}
_NEW_IN_25: JsonObject = {"ff_bias": False, "use_keyframes_abs_pos_embedding": True}
_AMP: JsonObject = {
    "resblock": "AMP1",
    "activation": "snakebeta",
    "use_tanh_at_final": False,
    "use_bias_at_final": False,
}
_VOCODER: JsonObject = {"vocoder": {"vocoder": _AMP, "bwe": _AMP}}
_UP = (("space", 2, 6), ("time", 2, 4), ("all", 1, 2), ("all", 2, 2))
_LTXV = {"ltxv-2b": (28, 64), "ltxv-13b": (48, 128)}
"""Layers, and width of one of the 32 heads, of each size of LTX-Video."""
_T5 = 4_762_310_656
"""Parameters of the encoder of T5 v1.1 XXL."""


@lru_cache(maxsize=8)
def released_size(generation: Released, stored: Stored = "bf16") -> ModelSize:
    """Configurations and bytes of weights of a released model.

    ``generation`` is its release, "2.0", "2.3" or "2.5" (with the convolutional video VAE), or "ltxv-2b" or
    "ltxv-13b" for LTX-Video from 0.9.5 on with T5 v1.1 XXL. ``stored`` says
    how the weights of the transformer's blocks are stored: "fp8" and "int8" take one byte for each, "bf16"
    two. "int8" are the ConvRot files, in which the text connectors and the text encoder are int8 too. Raises
    ValueError for a generation that is not in ``RELEASED`` or storage that is not in ``STORED``.
    """
    if generation not in RELEASED or stored not in STORED:
        raise ValueError(
            f"no sizes are known of {generation!r} in {stored!r}; "
            f"use one of {', '.join(RELEASED)} in {', '.join(STORED)}"
        )
    if generation in _LTXV:
        if stored == _INT8:
            raise ValueError("LTX-Video is released in bf16 and fp8, and not in int8")
        return _ltx_video(generation, STORED[stored])
    config = released_config(generation)
    transformer, vae, text = transformer_config(config), video_vae_config(config), text_config(config)
    others, block = _others_and_block(transformer)
    # Two bytes a weight for all but the blocks: released fp8 files store only these in eight bits.
    small = STORED[stored] if stored == _INT8 else 2
    connectors = small * _parameters(TextConnectors(text, device="meta"))
    gemma = small * (_GEMMA[generation] - _GEMMA_EMBEDDING) + 2 * _GEMMA_EMBEDDING
    return ModelSize(
        transformer=transformer,
        vae=vae,
        audio=AudioSize(decoder=audio_vae_config(config), vocoder=vocoder_config(config)),
        text=TextSize.of(text, hidden=_GEMMA_HIDDEN, intermediate=_GEMMA_INTERMEDIATE),
        connector_weights=connectors,
        text_weights=gemma + 2 * _PROJECTION[generation] + connectors,
        transformer_weights=2 * others + STORED[stored] * block * transformer.num_layers,
        block_weights=STORED[stored] * block,
        decoder_weights=2 * _parameters(VideoDecoder(vae, device="meta")),
    )


def released_config(generation: Released) -> JsonObject:
    """The ``config`` object in the header of a released model of LTX-2; that of 2.0 says nothing."""
    newest = _NEW_IN_25 if generation == "2.5" else {}
    new: JsonObject = {"transformer": {**NEW_CONFIG, **newest}, "vae": _vae(), **_VOCODER}
    return {} if generation == "2.0" else new


def _others_and_block(transformer: TransformerConfig) -> tuple[int, int]:
    """Parameters of a transformer outside of its blocks, and of one block."""
    # A block is the difference of two depths; building all 48 on the meta device would take seconds.
    one, two = (_parameters(Transformer(replace(transformer, num_layers=n), device="meta")) for n in (1, 2))
    return 2 * one - two, two - one


def _ltx_video(generation: Released, stored: int) -> ModelSize:
    """The sizes of LTX-Video, whose blocks take ``stored`` bytes a weight."""
    layers, head = _LTXV[generation]
    config: JsonObject = {
        "transformer": {
            "_class_name": VIDEO_TRANSFORMER,
            "num_layers": layers,
            "num_attention_heads": 32,
            "attention_head_dim": head,
            "cross_attention_dim": 32 * head,
            "caption_channels": 4096,
            "causal_temporal_positioning": True,
        },
        "vae": {"timestep_conditioning": True, "decoder_blocks": _LTXV_DECODER},
    }
    transformer, vae = transformer_config(config), video_vae_config(config)
    others, block = _others_and_block(transformer)
    return ModelSize(
        transformer=transformer,
        vae=vae,
        text=TextSize.of_t5(hidden=4096, intermediate=10240),
        text_weights=2 * _T5,
        transformer_weights=2 * others + stored * block * layers,
        block_weights=stored * block,
        decoder_weights=2 * _parameters(VideoDecoder(vae, device="meta")),
    )


_RES: JsonValue = ["res_x", {"num_layers": 5}]
_DOUBLED: JsonValue = ["compress_all", {"multiplier": 2, "residual": True}]
_LTXV_DECODER: JsonValue = [_RES, _DOUBLED, _RES, _DOUBLED, _RES, _DOUBLED, _RES]


def _vae() -> JsonObject:
    """The section ``vae`` of the configuration in a 2.3 checkpoint, without the encoder.

    The encoder is smaller than the decoder and never decides the peak.
    """
    blocks: list[JsonValue] = [["res_x", {"num_layers": 4}]]
    for kind, multiplier, layers in _UP:
        blocks += [[f"compress_{kind}", {"multiplier": multiplier}], ["res_x", {"num_layers": layers}]]
    return {"spatial_padding_mode": "zeros", "decoder_blocks": blocks}


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
