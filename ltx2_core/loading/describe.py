"""Describes a model file or folder from its headers, without reading weights."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from ..config import transformer_config, upsampler_config
from ..storage.files import ParsedJson
from ..storage.header import TensorInfo
from ..storage.quantized import StoredLayer, find_quantized
from ..storage.reading import read_markers
from ..text.find import find_text_encoder
from ..text.folder import find_tokenizer
from ..text.single_file import TOKENIZERS
from ..text.t5_tokenizer import find_t5_tokenizer
from .checkpoint import Checkpoint, open_checkpoint
from .detect import Component
from .file_report import LoraDescription, PartReport, Report
from .file_set import stage_factor, upscaler_kind
from .infer_vae import ltxv_vae
from .lora import open_lora
from .lora_dialects import target_of
from .lora_report import STREAMS, stream_of

_MAIN = frozenset({Component.TRANSFORMER, Component.VIDEO_DECODER, Component.AUDIO_DECODER})


def describe(path: str | os.PathLike[str]) -> Report:
    """Describe a checkpoint, a LoRA or a text encoder as plain values that can be written as JSON.

    A component that cannot be loaded has the reason in ``problem``. Raises FileNotFoundError for a missing
    path, ValueError for a damaged file or another model.
    """
    path = Path(path)
    return _describe_text_encoder(path) if is_text_encoder(path) else _describe_file(path)


def is_text_encoder(path: Path) -> bool:
    """Whether ``path`` has to be read as a text encoder: a file that contains nothing else, or a folder.

    A folder is taken for one if its ``config.json`` is not that of a diffusers model. Without that file it is
    taken for one if it is no diffusers pipeline and has no safetensors files.
    """
    if path.is_dir():
        config = path / "config.json"
        if config.is_file():
            # diffusers states the class in each of its configurations, and transformers does not.
            return b"_class_name" not in config.read_bytes()
        return not (path / "model_index.json").is_file() and not any(path.glob("*.safetensors"))
    return path.is_file() and open_checkpoint(path).components == {Component.TEXT_ENCODER}


def _describe_file(path: Path) -> Report:
    checkpoint = open_checkpoint(path)
    report: Report = {
        "file": str(checkpoint.path),
        "size": sum(file.stat().st_size for file in {i.path for i in checkpoint.tensors.values()}),
        "generation": checkpoint.generation,
        "kind": _kind(checkpoint),
        "layout": _layout(checkpoint),
        "components": [
            {
                **_part(component, checkpoint.infos(component), checkpoint.metadata),
                "size": checkpoint.nbytes(component),
                "problem": _problem(checkpoint, component),
            }
            for component in Component
            if component in checkpoint.components
        ],
        "tensors": len(checkpoint.tensors),
        "dtypes": dict(Counter(info.dtype for info in checkpoint.tensors.values())),
        "metadata": dict(checkpoint.metadata),
    }
    if checkpoint.generation == "0.9":
        report["model"] = describe_ltx_video(checkpoint)
    if Component.UPSAMPLER in checkpoint.components:
        report["upscaler"] = describe_upscaler(checkpoint)
    if Component.LORA in checkpoint.components:
        report["lora"] = _describe_lora(path)
    return report


def _describe_text_encoder(path: Path) -> Report:
    config, infos, metadata = find_text_encoder(path)
    is_t5 = config.get("model_type") == "t5"
    keys = (
        ("d_model", "num_layers", "num_heads", "vocab_size")
        if is_t5
        else (*("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"),)
    )
    part = _part(Component.TEXT_ENCODER, infos, metadata)
    # E2B and E4B have an embedding for each layer, which no text encoder of LTX-2 has.
    writes = bool(config.get("hidden_size_per_layer_input"))
    later = "gemma4" in str(config.get("model_type"))
    return {
        "file": str(path),
        "size": sum(file.stat().st_size for file in {info.path for info in infos.values()}),
        # Gemma 3 serves 2.0 and 2.3, so that it does not tell the generation.
        "generation": "0.9" if is_t5 else "2.5" if later and not writes else None,
        "kind": "language model that enhances prompts (--enhancer)" if writes else "text encoder",
        "layout": "Hugging Face folder" if path.is_dir() else "text encoder in one file",
        "components": [part],
        "tensors": len(infos),
        "dtypes": dict(Counter(info.dtype for info in infos.values())),
        "metadata": {key: config[key] for key in ("model_type", *keys) if key in config},
        "tokenizer": _t5_tokenizer(path) if is_t5 else _tokenizer(path),
    }


def _kind(checkpoint: Checkpoint) -> str:
    """The kind of a file in a few words, such as "IC-LoRA", "checkpoint", or the list of its components."""
    held, path = checkpoint.components, checkpoint.path
    if Component.LORA in held:
        try:
            return "IC-LoRA" if open_lora(path).is_ic_lora else "LoRA"
        except ValueError:
            return "LoRA"
    if Component.UPSAMPLER in held and len(held) == 1:
        return f"latent upscaler, {describe_upscaler(checkpoint)}"
    if _is_whole(checkpoint):
        return "checkpoint"
    return ", ".join(str(component) for component in Component if component in held)


def _is_whole(checkpoint: Checkpoint) -> bool:
    """Whether a file has all components but the text encoder, as released checkpoints have."""
    # LTX-Video has no audio.
    silent = checkpoint.generation == "0.9"
    return checkpoint.components >= (_MAIN - {Component.AUDIO_DECODER} if silent else _MAIN)


def describe_ltx_video(checkpoint: Checkpoint) -> str:
    """Which LTX-Video a file is of, such as "LTX-Video 13B, 0.9.5 or later, distilled".

    It says what tensors and header tell: the size by the transformer, the version by the video VAE.
    """
    parts = []
    if Component.TRANSFORMER in checkpoint.components:
        layers = transformer_config(checkpoint.config).num_layers
        parts.append({28: "2B", 48: "13B"}.get(layers, f"{layers} blocks"))
    held = checkpoint.components & {Component.VIDEO_ENCODER, Component.VIDEO_DECODER}
    vae = ltxv_vae(name for component in held for name in checkpoint.infos(component))
    if vae is not None:
        parts.append({"A": "0.9.0", "B": "0.9.1", "C": "0.9.5 or later"}[vae])
    if "allowed_inference_steps" in checkpoint.config:
        parts.append("distilled")
    return "LTX-Video " + ", ".join(parts)


def _describe_lora(path: Path) -> LoraDescription:
    try:
        lora = open_lora(path)
        streams = Counter(stream_of(*target_of(module)) for module in lora.layers)
        return {
            "layers": len(lora.layers),
            "kinds": list(lora.kinds),
            "ranks": list(lora.ranks),
            "streams": {stream: streams[stream] for stream in STREAMS if streams[stream]},
            "made_for": lora.base_model,
            "reference_downscale_factor": lora.reference_downscale_factor,
            "reference_temporal_scale_factor": lora.reference_temporal_scale_factor,
        }
    except ValueError as error:
        return {"problem": str(error)}


def describe_upscaler(checkpoint: Checkpoint) -> str:
    """The kind and factor of an upscaler in words, such as "spatial x2".

    Unless the factor is 2, the text also states the number of pixels, such as 96, of which the width and the
    height of a two-stage run must be multiples, or that the upscaler is not for two stages. If the upscaler
    is not supported, the text says why.
    """
    try:
        kind = upscaler_kind(upsampler_config(checkpoint.config))
    except ValueError as error:
        return str(error)
    try:
        factor = stage_factor(checkpoint)
    except ValueError:
        return f"{kind}: not for two stages"
    return kind if factor == 2 else f"{kind}: for two stages of sizes in multiples of {32 * factor.numerator}"


def _part(component: Component, infos: Mapping[str, TensorInfo], metadata: ParsedJson) -> PartReport:
    part: PartReport = {
        "name": str(component),
        "tensors": len(infos),
        "parameters": sum(info.numel for info in infos.values()),
        "size": sum(info.nbytes for info in infos.values()),
        "dtypes": sorted({info.dtype for info in infos.values()}),
    }
    try:
        layers = find_quantized(infos, read_markers(infos, metadata))
    except ValueError as error:
        return {**part, "problem": str(error)}
    return {**part, "quantised": dict(Counter(_format(layer) for layer in layers.values()))}


def _problem(checkpoint: Checkpoint, component: Component) -> str | None:
    """Why a component cannot be loaded, as text; None if it can.

    For LoRAs and text encoders, which are not checked here, the result is None.
    """
    if component in (Component.LORA, Component.TEXT_ENCODER):
        return None
    try:
        checkpoint.check(component)
    except ValueError as error:
        return str(error)
    return None


def _format(layer: StoredLayer) -> str:
    if layer.form.kind != "float":
        return f"{layer.form.kind} rotated" if layer.form.rotation else layer.form.kind
    scaled = any(suffix in layer.infos for suffix in ("weight_scale", "scale_weight"))
    return f"{layer.infos['weight'].dtype} {'scaled' if scaled else 'cast'}"


def _layout(checkpoint: Checkpoint) -> str:
    held, path = checkpoint.components, checkpoint.path
    if path.is_dir():
        if (path / "model_index.json").is_file():
            return "diffusers pipeline"
        return "one part of a diffusers pipeline" if (path / "config.json").is_file() else "split files"
    if _is_whole(checkpoint):
        return "single file"
    if len(held) == 1 and held & {Component.LORA, Component.UPSAMPLER}:
        return str(next(iter(held)))
    if Component.TEXT_ENCODER in held:
        return "text encoder in one file, with its projection"
    return "split file"


def _t5_tokenizer(path: Path) -> str | None:
    try:
        return find_t5_tokenizer(path).name
    except ValueError:
        return None


def _tokenizer(path: Path) -> str | None:
    if path.is_dir():
        try:
            return find_tokenizer(path).name
        except ValueError:
            return None
    names = open_checkpoint(path).tensors
    return next((f"in the file, as {name}" for name in TOKENIZERS if name in names), None)
