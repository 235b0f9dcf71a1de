"""Reconstructs configuration and generation from tensor names and shapes, for files without metadata.

The result is the JSON of a released header, so that ``config`` remains the only reader of settings. Settings
that shapes do not determine (rope, padding, sample rates) are left out; the reader then uses the released
values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from ..config.reader import VIDEO_TRANSFORMER
from ..storage.files import JsonObject
from .detect import DIFFUSION_MARK, Component
from .infer_vae import Shapes, count, infer_audio_vae, infer_video_vae, infer_vocoder, ltxv_vae

Generation = Literal["0.9", "2.0", "2.3", "2.5"]
"""Releases that differ in their networks; "0.9" is LTX-Video, all versions of which share one transformer."""

# Shapes give only the product of heads and their width.
HEAD_DIM = 128
"""Width of a video attention head in every released transformer and connector of LTX-2."""
HEADS_OF_LTXV = 32
"""Number of attention heads in every released transformer of LTX-Video."""


def infer_generation(parts: Mapping[Component, Shapes], version: str) -> Generation | None:
    """Detect the model generation, such as "2.3", from the tensors of a file's components.

    ``parts`` maps each component to the shapes of its tensors by official name; ``version`` is the header's
    ``model_version`` or "". A transformer's tensors decide alone, as do those of a video VAE of LTX-Video
    ("0.9"). Those of connectors, text projection and vocoder tell 2.0 from later generations, and ``version``
    tells 2.5 from 2.3. A diffusion decoder is of 2.5. For other files ``version`` decides, and without it the
    tensors of the video VAE. Returns None if nothing does, as for an upsampler or a LoRA without metadata.
    """
    stated = next((g for g in _GENERATIONS if version == g or version.startswith(f"{g}.")), None)
    transformer = parts.get(Component.TRANSFORMER)
    if transformer is not None:
        if is_video_only(transformer):
            return "0.9"
        # Since 2.3 blocks also modulate the text, with a table of its own.
        if "transformer_blocks.0.prompt_scale_shift_table" not in transformer:
            return "2.0"
        # Either sign of 2.5 is enough: the keyframe embedding, or a feed-forward without biases.
        newest = "keyframes_abs_pos_embedding" in transformer
        return "2.5" if newest or "transformer_blocks.0.ff.net.0.proj.bias" not in transformer else "2.3"
    old = [names(parts[component]) for component, names in _OLD.items() if component in parts]
    if old:
        return "2.0" if old[0] else "2.5" if stated == "2.5" else "2.3"
    encoder, decoder = parts.get(Component.VIDEO_ENCODER), parts.get(Component.VIDEO_DECODER)
    if ltxv_vae({**(encoder or {}), **(decoder or {})}) is not None:
        return "0.9"
    if decoder is not None and DIFFUSION_MARK in decoder:
        return "2.5"
    if stated is None and decoder is not None:
        return "2.3" if count(decoder, "decoder.up_blocks.") > 7 else "2.0"
    if stated is None and encoder is not None:
        return "2.3" if count(encoder, "encoder.down_blocks.4.res_blocks.") <= 4 else "2.0"
    return stated


def infer_config(parts: Mapping[Component, Shapes]) -> JsonObject:
    """Reconstruct the header's configuration for the components in ``parts``.

    ``parts`` maps each component to the shapes of its tensors by official name. Raises ValueError for shapes
    that belong to no released layout, LookupError for a tensor that is missing.
    """
    config: JsonObject = {}
    network = parts.get(Component.TRANSFORMER, {})
    video = {**parts.get(Component.VIDEO_ENCODER, {}), **parts.get(Component.VIDEO_DECODER, {})}
    own = infer_ltxv(network, video) if is_video_only(network) else infer_transformer(network)
    transformer = {
        **own,
        **infer_projection(parts.get(Component.TEXT_PROJECTION, {})),
        **infer_connectors(parts.get(Component.TEXT_CONNECTORS, {})),
    }
    audio = {**parts.get(Component.AUDIO_ENCODER, {}), **parts.get(Component.AUDIO_DECODER, {})}
    for section, found in (
        ("transformer", transformer),
        ("vae", infer_video_vae(video)),
        ("audio_vae", infer_audio_vae(audio)),
        ("vocoder", infer_vocoder(parts.get(Component.VOCODER, {}))),
    ):
        if found:
            config[section] = found
    config.update(infer_upsampler(parts.get(Component.UPSAMPLER, {})))
    return config


def infer_transformer(shapes: Shapes) -> JsonObject:
    """Reconstruct the ``transformer`` section of the configuration, without the keys of the text connectors.

    ``shapes`` has the shapes of the transformer's tensors by official name.
    """
    if not shapes:
        return {}
    width, channels = shapes["patchify_proj.weight"]
    audio_width, audio_channels = shapes["audio_patchify_proj.weight"]
    heads = _heads(shapes, "transformer_blocks.0.attn1", width)
    late = "transformer_blocks.0.prompt_scale_shift_table" in shapes
    config: JsonObject = {
        "num_layers": count(shapes, "transformer_blocks."),
        "num_attention_heads": heads,
        "attention_head_dim": width // heads,
        "audio_num_attention_heads": heads,
        "audio_attention_head_dim": audio_width // heads,
        "in_channels": channels,
        "out_channels": shapes["proj_out.weight"][0],
        "audio_in_channels": audio_channels,
        "audio_out_channels": shapes["audio_proj_out.weight"][0],
        "cross_attention_dim": width,
        "audio_cross_attention_dim": audio_width,
        "apply_gated_attention": "transformer_blocks.0.attn1.to_gate_logits.weight" in shapes,
        "cross_attention_adaln": late,
        "use_prompt_adaln_single": not late or "prompt_adaln_single.linear.weight" in shapes,
        "caption_proj_before_connector": "caption_projection.linear_1.weight" not in shapes,
        "ff_bias": "transformer_blocks.0.ff.net.0.proj.bias" in shapes,
        "audio_ff_bias": "transformer_blocks.0.audio_ff.net.0.proj.bias" in shapes,
        "use_keyframes_abs_pos_embedding": "keyframes_abs_pos_embedding" in shapes,
    }
    if "caption_projection.linear_1.weight" in shapes:
        config["caption_channels"] = shapes["caption_projection.linear_1.weight"][1]
    return config


def is_video_only(transformer: Shapes) -> bool:
    """Whether the shapes of a transformer's tensors are those of LTX-Video, which has no audio stream."""
    return "patchify_proj.weight" in transformer and "audio_patchify_proj.weight" not in transformer


def infer_ltxv(shapes: Shapes, vae: Shapes) -> JsonObject:
    """Reconstruct the ``transformer`` section of the configuration of LTX-Video.

    ``shapes`` has the shapes of the transformer's tensors by official name, ``vae`` those of the video VAE in
    the same file, if there is one. Raises ValueError for a transformer that is not as wide as a released one.
    """
    width, channels = shapes["patchify_proj.weight"]
    if width % HEADS_OF_LTXV:
        raise ValueError(
            f"the number of attention heads of a transformer of width {width} does not follow from shapes: "
            "a file with its 'config' metadata is needed"
        )
    layers = count(shapes, "transformer_blocks.")
    return {
        "_class_name": VIDEO_TRANSFORMER,
        "num_layers": layers,
        "num_attention_heads": HEADS_OF_LTXV,
        "attention_head_dim": width // HEADS_OF_LTXV,
        "in_channels": channels,
        "out_channels": shapes["proj_out.weight"][0],
        "cross_attention_dim": width,
        "caption_channels": shapes["caption_projection.linear_1.weight"][1],
        "causal_temporal_positioning": is_causal(vae),
    }


def is_causal(vae: Iterable[str]) -> bool:
    """Whether the LTX-Video whose video VAE has these tensors (official names) was trained on causal times.

    That is so since 0.9.5, which came with another VAE, and assumed for a transformer without a VAE.
    """
    return ltxv_vae(vae) not in ("A", "B")


def infer_projection(shapes: Shapes) -> JsonObject:
    """Reconstruct the keys of the ``transformer`` section that set the widths of the text projection.

    ``shapes`` has the shapes of the projection's tensors by official name.
    """
    if not shapes:
        return {}
    late = "video_aggregate_embed.weight" in shapes
    video, audio = ("video_aggregate_embed", "audio_aggregate_embed") if late else ("aggregate_embed",) * 2
    width, audio_width = shapes[f"{video}.weight"][0], shapes[f"{audio}.weight"][0]
    heads = max(1, width // HEAD_DIM)
    return {
        "caption_proj_before_connector": late,
        "connector_num_attention_heads": heads,
        "connector_attention_head_dim": width // heads,
        "audio_connector_attention_head_dim": audio_width // heads,
    }


def infer_connectors(shapes: Shapes) -> JsonObject:
    """Reconstruct the keys of the ``transformer`` section for the text connectors.

    ``shapes`` has the shapes of the connectors' tensors by official name.
    """
    if not shapes:
        return {}
    block = "{}_embeddings_connector.transformer_1d_blocks."
    gated = block.format("video") + "0.attn1.to_gate_logits.weight" in shapes
    config: JsonObject = {
        "caption_proj_before_connector": gated,
        "connector_apply_gated_attention": gated,
        "connector_ff_bias": block.format("video") + "0.ff.net.0.proj.bias" in shapes,
    }
    for stream, prefix in (("video", "connector_"), ("audio", "audio_connector_")):
        registers, width = shapes[f"{stream}_embeddings_connector.learnable_registers"]
        heads = _heads(shapes, block.format(stream) + "0.attn1", width)
        config[f"{prefix}num_attention_heads"] = heads
        config[f"{prefix}attention_head_dim"] = width // heads
        config[f"{prefix}num_layers"] = count(shapes, block.format(stream))
        config["connector_num_learnable_registers"] = registers
    return config


def infer_upsampler(shapes: Shapes) -> JsonObject:
    """Reconstruct the configuration of a latent upsampler, whose keys stand outside any section.

    ``shapes`` has the shapes of its tensors by official name.
    """
    if not shapes:
        return {}
    mid, channels = shapes["initial_conv.weight"][:2]
    config: JsonObject = {
        "in_channels": channels,
        "mid_channels": mid,
        "num_blocks_per_stage": count(shapes, "res_blocks."),
        "dims": 3,
    }
    rational = shapes.get("upsampler.conv.weight")
    if rational is not None:
        scales = {4: 2.0, 9: 1.5, 16: 4.0}
        ratio = rational[0] // mid
        if ratio not in scales:
            raise ValueError(f"rational upsampler of ratio {ratio}; supported squares: {sorted(scales)}")
        return {
            **config,
            "spatial_upsample": True,
            "rational_resampler": True,
            "spatial_scale": scales[ratio],
        }
    plain = shapes["upsampler.0.weight"]
    ratio = plain[0] // mid
    return {
        **config,
        # A kernel without time enlarges space. One with time enlarges time and space if it makes 8 positions
        # of one, and time alone if it makes 2.
        "spatial_upsample": len(plain) == 4 or ratio == 8,
        "temporal_upsample": len(plain) == 5,
        "rational_resampler": False,
    }


_GENERATIONS: tuple[Generation, ...] = ("2.0", "2.3", "2.5")
"""Those that a header may state as ``model_version``."""

_OLD: Mapping[Component, Callable[[Shapes], bool]] = {
    Component.TEXT_PROJECTION: lambda shapes: "aggregate_embed.weight" in shapes,
    Component.TEXT_CONNECTORS: lambda shapes: not any("to_gate_logits" in name for name in shapes),
    Component.VOCODER: lambda shapes: "conv_pre.weight" in shapes,
}
"""Component -> test whether its tensors are those of 2.0, for files without a transformer."""


def _heads(shapes: Shapes, attention: str, width: int) -> int:
    gate = shapes.get(f"{attention}.to_gate_logits.weight")
    if gate is not None:
        return gate[0]
    if width % HEAD_DIM:
        raise ValueError(
            f"the number of attention heads of {attention} (width {width}) does not follow from shapes: "
            "a file with its 'config' metadata is needed"
        )
    return width // HEAD_DIM
