"""A folder of model files as one header: a diffusers pipeline or component, or split official files.

Every tensor keeps its place in its own file and gets the name that a single-file checkpoint would give it;
every ``config.json`` becomes its section of the single-file configuration.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..storage.header import Header, TensorInfo, read_header
from .rename import table_for

Json = dict[str, Any]

PARTS = ("transformer", "connectors", "vae", "audio_vae", "vocoder", "latent_upsampler")
"""Subfolders of a pipeline whose weights are read; the text encoder has a reader of its own."""

_STATISTICS = "per_channel_statistics."


def read_folder(folder: Path) -> Header:
    """The header of a diffusers pipeline folder, of one of its parts, or of a folder of split files.

    Raises ValueError that names the folder and what is missing or contradicts itself.
    """
    if (folder / "model_index.json").is_file():
        parts = [folder / name for name in PARTS if (folder / name / "config.json").is_file()]
        if not parts:
            raise ValueError(f"{folder} has a model_index.json but none of the folders {', '.join(PARTS)}")
    elif (folder / "config.json").is_file():
        parts = [folder]
    else:
        return _merged(folder, [read_header(path) for path in sorted(folder.glob("*.safetensors"))])
    return _merged(folder, [_read_part(part) for part in parts])


def text_encoder_folder(path: Path) -> Path | None:
    """The pipeline folder at ``path`` where it has a text encoder of its own, which lies beside the rest."""
    return path if (path / "text_encoder" / "config.json").is_file() else None


def _read_part(folder: Path) -> Header:
    config = _json(folder / "config.json")
    name = str(config.get("_class_name"))
    translate = _TRANSLATIONS.get(name)
    blocks = config.get("block_out_channels", ())
    table = table_for(name, blocks=len(blocks) if isinstance(blocks, list) else 0)
    if table is None or translate is None:
        raise ValueError(f"{folder} holds a {name}; known are {', '.join(_TRANSLATIONS)}")
    try:
        section = translate(config)
    except (LookupError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        said = str(error) if type(error) is ValueError else repr(error)
        raise ValueError(f"{folder / 'config.json'} is no configuration of a {name}: {said}") from None
    tensors: dict[str, TensorInfo] = {}
    for path in _shards(folder):
        for own, info in read_header(path).tensors.items():
            tensors[table.rename(own)] = info
    return Header(folder, {"config": section}, tensors)


def _shards(folder: Path) -> list[Path]:
    indices = sorted(folder.glob("*.safetensors.index.json"))
    # A folder may hold variants such as fp16 beside the full weights, whose names have one dot less.
    if index := min(indices, key=lambda path: path.name.count("."), default=None):
        names = _json(index).get("weight_map")
        if not isinstance(names, dict) or not all(_is_file_name(name) for name in names.values()):
            raise ValueError(f"{index} has no 'weight_map' from tensors to file names; download it again")
        files = [folder / name for name in sorted(set(names.values()))]
        missing = [path.name for path in files if not path.is_file()]
        if missing:
            raise ValueError(
                f"{index} names {len(files)} files but {', '.join(missing[:3])} ({len(missing)} in all) are "
                "missing; download them again"
            )
        return files
    files = sorted(folder.glob("*.safetensors"), key=lambda path: (path.name.count("."), path.name))
    if not files:
        raise ValueError(f"{folder} has a config.json but no .safetensors weights; download them")
    return files[:1]


def _merged(folder: Path, headers: Iterable[Header]) -> Header:
    tensors: dict[str, TensorInfo] = {}
    config: Json = {}
    metadata: Json = {}
    for header in headers:
        for name, info in header.tensors.items():
            # Both halves of a VAE carry the statistics; anything else twice means two models.
            if name in tensors and _STATISTICS not in name:
                raise ValueError(
                    f"{tensors[name].path} and {header.path} both hold {name}; "
                    "give one of them, or a folder with the files of one model"
                )
            tensors.setdefault(name, info)
        for key, value in header.metadata.items():
            if key != "config":
                metadata.setdefault(key, value)
        if isinstance(section := header.metadata.get("config"), Mapping):
            for key, value in section.items():
                known = config.get(key)
                merge = isinstance(value, Mapping) and isinstance(known, Mapping)
                config[key] = {**dict(known or {}), **value} if merge else value
    if not tensors:
        raise ValueError(
            f"{folder} holds no model files; give a .safetensors file, a folder of them, or a diffusers "
            "folder with its model_index.json"
        )
    if config:
        metadata["config"] = config
    return Header(folder, MappingProxyType(metadata), MappingProxyType(tensors))


def _transformer(c: Json) -> Json:
    heads, head_dim = c.get("num_attention_heads", 32), c.get("attention_head_dim", 128)
    return {
        "transformer": {
            "num_layers": c.get("num_layers", 48),
            "num_attention_heads": heads,
            "attention_head_dim": head_dim,
            "cross_attention_dim": c.get("cross_attention_dim", heads * head_dim),
            "audio_num_attention_heads": c.get("audio_num_attention_heads", heads),
            "audio_attention_head_dim": c.get("audio_attention_head_dim", 64),
            **_present(c, "audio_cross_attention_dim", "in_channels", "out_channels", "audio_in_channels"),
            **_present(c, "audio_out_channels", "caption_channels", "norm_eps", "attention_bias"),
            **_present(c, "norm_elementwise_affine", "activation_fn", "timestep_scale_multiplier"),
            **_present(c, "ff_bias", "audio_ff_bias", "use_prompt_adaln_single"),
            **_present(c, "use_keyframes_abs_pos_embedding"),
            "apply_gated_attention": _both(c, "gated_attn", "audio_gated_attn"),
            "cross_attention_adaln": _both(c, "cross_attn_mod", "audio_cross_attn_mod"),
            "caption_proj_before_connector": not c.get("use_prompt_embeddings", True),
            "av_ca_timestep_scale_multiplier": c.get("cross_attn_timestep_scale_multiplier", 1000),
            "positional_embedding_max_pos": [
                c.get("pos_embed_max_pos", 20),
                c.get("base_height", 2048),
                c.get("base_width", 2048),
            ],
            "audio_positional_embedding_max_pos": [c.get("audio_pos_embed_max_pos", 20)],
            **_rope(c),
        }
    }


def _connectors(c: Json) -> Json:
    late = bool(c.get("per_modality_projections", False))
    return {
        "transformer": {
            "caption_channels": c.get("caption_channels", 3840),
            "caption_proj_before_connector": late,
            "connector_num_attention_heads": c.get("video_connector_num_attention_heads", 30),
            "connector_attention_head_dim": c.get("video_connector_attention_head_dim", 128),
            "connector_num_layers": c.get("video_connector_num_layers", 2),
            "connector_num_learnable_registers": c.get("video_connector_num_learnable_registers", 128),
            "audio_connector_num_attention_heads": c.get("audio_connector_num_attention_heads", 30),
            "audio_connector_attention_head_dim": c.get("audio_connector_attention_head_dim", 128),
            "audio_connector_num_layers": c.get("audio_connector_num_layers", 2),
            "connector_apply_gated_attention": _both(c, "video_gated_attn", "audio_gated_attn"),
            "connector_positional_embedding_max_pos": [c.get("connector_rope_base_seq_len", 4096)],
            **_rope(c),
        }
    }


def _video_vae(c: Json) -> Json:
    """Both block lists are stored output side first, except ``upsample_type``, which is in running order."""
    latent = c.get("latent_channels", 128)
    for key in ("spatio_temporal_scaling", "decoder_spatio_temporal_scaling"):
        value = c.get(key, True)
        if not (all(value) if isinstance(value, list) else value):
            raise ValueError(f"video VAE: {key} is {value!r}; only true is supported")
    if c.get("patch_size_t", 1) != 1:
        raise ValueError(f"video VAE: patch_size_t is {c['patch_size_t']!r}; only 1 is supported")
    widths = c["block_out_channels"]
    encoder: list[Any] = []
    for before, width, kind, layers in zip(
        [latent, *widths], widths, c["downsample_type"], c["layers_per_block"], strict=False
    ):
        encoder += [
            ["res_x", {"num_layers": layers}],
            [f"{_RESAMPLING[kind]}_res", {"multiplier": width // before}],
        ]
    encoder.append(["res_x", {"num_layers": c["layers_per_block"][-1]}])
    count, factors = len(c["decoder_block_out_channels"]), c["upsample_factor"]
    noise = _per_block(c.get("decoder_inject_noise", False), count + 1)
    residual = _per_block(c.get("upsample_residual", True), count)
    layers = c["decoder_layers_per_block"]
    decoder: list[Any] = [["res_x", {"num_layers": layers[0], "inject_noise": noise[0]}]]
    for i, kind in enumerate(reversed(c.get("upsample_type", ["spatiotemporal"] * count))):
        decoder += [
            [_RESAMPLING[kind], {"multiplier": factors[i], "residual": residual[i]}],
            ["res_x", {"num_layers": layers[i + 1], "inject_noise": noise[i + 1]}],
        ]
    return {
        "vae": {
            "_class_name": "CausalVideoAutoencoder",
            "latent_channels": latent,
            "encoder_base_channels": latent,
            "decoder_base_channels": c["decoder_block_out_channels"][0] // factors[0],
            "encoder_blocks": encoder,
            "decoder_blocks": decoder,
            "encoder_spatial_padding_mode": c.get("encoder_spatial_padding_mode", "zeros"),
            "decoder_spatial_padding_mode": c.get("decoder_spatial_padding_mode", "reflect"),
            "causal_decoder": c.get("decoder_causal", False),
            **_present(c, "in_channels", "out_channels", "patch_size", "timestep_conditioning"),
        }
    }


def _audio_vae(c: Json) -> Json:
    names = {
        "base_channels": "ch",
        "output_channels": "out_ch",
        "latent_channels": "z_channels",
        **{key: key for key in ("ch_mult", "num_res_blocks", "in_channels", "mel_bins", "double_z")},
        **{key: key for key in ("norm_type", "causality_axis", "mid_block_add_attention")},
    }
    return {
        "audio_vae": {
            "model": {
                "params": {
                    "ddconfig": {
                        **{new: c[old] for old, new in names.items() if old in c},
                        "attn_resolutions": list(c.get("attn_resolutions") or []),
                    },
                    "sampling_rate": c.get("sample_rate", 16000),
                }
            },
            "preprocessing": {"stft": {"hop_length": c.get("mel_hop_length", 160)}},
        }
    }


def _vocoder(c: Json) -> Json:
    return {"vocoder": _generator(c, "")}


def _vocoder_bwe(c: Json) -> Json:
    # diffusers stores no final activation for the first stage, where the original network clamps; so a
    # missing one is the clamp here.
    first = {**_generator(c, ""), "use_tanh_at_final": False}
    first.pop("apply_final_activation", None)
    return {
        "vocoder": {
            "vocoder": first,
            "bwe": {
                **_generator(c, "bwe_"),
                "input_sampling_rate": c.get("input_sampling_rate", 16000),
                "output_sampling_rate": c.get("output_sampling_rate", 48000),
                "hop_length": c.get("hop_length", 80),
                "n_fft": c.get("filter_length", 512),
                "win_size": c.get("window_length", 512),
                "num_mels": c.get("num_mel_channels", 64),
            },
        }
    }


def _generator(c: Json, prefix: str) -> Json:
    amp = bool(c.get(f"{prefix}antialias", False))
    final = c.get(f"{prefix}final_act_fn")
    names = {
        "hidden_channels": "upsample_initial_channel",
        "upsample_factors": "upsample_rates",
        "upsample_kernel_sizes": "upsample_kernel_sizes",
        "resnet_kernel_sizes": "resblock_kernel_sizes",
        "resnet_dilations": "resblock_dilation_sizes",
        "final_bias": "use_bias_at_final",
    }
    return {
        **{new: c[prefix + old] for old, new in names.items() if prefix + old in c},
        "resblock": "AMP1" if amp else "1",
        **({"activation": c.get(f"{prefix}act_fn", "snakebeta")} if amp else {}),
        "use_tanh_at_final": final == "tanh",
        "apply_final_activation": final is not None,
    }


def _upsampler(c: Json) -> Json:
    keys = ("in_channels", "mid_channels", "num_blocks_per_stage", "dims")
    return {
        **_present(c, *keys, "spatial_upsample", "temporal_upsample"),
        "spatial_scale": c.get("rational_spatial_scale", 2.0),
        "rational_resampler": c.get("use_rational_resampler", True),
    }


_RESAMPLING = {
    "spatial": "compress_space",
    "temporal": "compress_time",
    "spatiotemporal": "compress_all",
}

_TRANSLATIONS: Mapping[str, Callable[[Json], Json]] = {
    "LTX2VideoTransformer3DModel": _transformer,
    "LTX2TextConnectors": _connectors,
    "AutoencoderKLLTX2Video": _video_vae,
    "AutoencoderKLLTX2Audio": _audio_vae,
    "LTX2Vocoder": _vocoder,
    "LTX2VocoderWithBWE": _vocoder_bwe,
    "LTX2LatentUpsamplerModel": _upsampler,
}
"""diffusers class -> its part of the single-file configuration; fields that 2.0 lacks take its values."""


def _rope(c: Json) -> Json:
    return {
        "positional_embedding_theta": c.get("rope_theta", 10000.0),
        "rope_type": c.get("rope_type", "split"),
        "frequencies_precision": "float64" if c.get("rope_double_precision", True) else "float32",
    }


def _both(c: Json, video: str, audio: str) -> bool:
    values = {bool(c.get(video, False)), bool(c.get(audio, False))}
    if len(values) > 1:
        raise ValueError(f"{video} and {audio} differ; only equal values are supported")
    return values.pop()


def _per_block(value: Any, count: int) -> list[Any]:
    return list(value) if isinstance(value, list) else [value] * count


def _present(c: Json, *keys: str) -> Json:
    return {key: c[key] for key in keys if key in c}


def _is_file_name(name: object) -> bool:
    return isinstance(name, str) and name == Path(name).name and name.endswith(".safetensors")


def _json(path: Path) -> Json:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); download it again") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object; got {type(value).__name__}")
    return value
