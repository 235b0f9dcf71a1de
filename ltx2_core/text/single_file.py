"""Reads a text encoder in a single file: language model, configuration and tokenizer.

The files of ComfyUI and LTX-2.5 have the weights under ``model.`` and the tokenizer as a tensor of bytes; a
GGUF file has both as llama.cpp writes them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..storage.files import JsonObject, ParsedJson
from ..storage.gguf import is_gguf
from ..storage.header import Header, TensorInfo, read_header
from ..storage.reading import decoded_shape, read_tensors
from .folder import language_name
from .gemma4_shapes import MARK, gemma4_config
from .gguf_encoder import read_gguf_encoder

TOKENIZERS = ("spiece_model", "tokenizer_json")
"""Tensors with the bytes of a ``tokenizer.model`` or of a ``tokenizer.json``."""


def read_encoder_file(path: Path) -> tuple[ParsedJson, dict[str, TensorInfo], Header]:
    """Read the header of a single-file text encoder.

    Returns its configuration, the header entries of the language model's tensors by their name in that model,
    and the whole header. The configuration is from the metadata, or reconstructed from shapes: for a Gemma 3,
    and for an instruction-tuned Gemma 4 such as E2B.

    Raises:
        ValueError: the file is not a Gemma; the message says what it seems to be.
    """
    if is_gguf(path):
        settings, infos, header = read_gguf_encoder(path)
        return {**_complete(path, infos), **settings}, infos, header
    header = read_header(path)
    infos = {own: info for name, info in header.tensors.items() if (own := language_name(name))}
    stated = header.metadata.get("gemma_config")
    if isinstance(stated, Mapping):
        # Configurations of multimodal models nest that of the language model.
        text = stated.get("text_config", stated)
        if not isinstance(text, Mapping):
            raise ValueError(f"{path}: metadata 'gemma_config' has no object 'text_config'")
        return {"model_type": stated.get("model_type"), **text}, infos, header
    if other := _describe_other(header.tensors, infos):
        raise ValueError(
            f"{path} is not a Gemma 3 text encoder: it seems to be {other}. Use gemma_3_12B_it (bf16, "
            "fp8_scaled or fp4_mixed; it belongs in text_encoders), or the Hugging Face folder of Gemma 3 12B"
        )
    return _complete(path, infos), infos, header


def _complete(path: Path, infos: Mapping[str, TensorInfo]) -> JsonObject:
    """As :func:`_config_of`; raises ValueError, which names ``path``, if tensors are missing."""
    try:
        return _config_of(infos)
    except (LookupError, ZeroDivisionError, ValueError) as error:
        kind = "Gemma 4" if MARK in infos else "Gemma 3"
        raise ValueError(f"{path} is an incomplete {kind}: {error}") from None


def tokenizer_bytes(path: Path) -> tuple[str, bytes]:
    """Read the tokenizer stored in the file ``path``: its kind, one of ``TOKENIZERS``, and its bytes.

    Raises:
        ValueError: the file contains no tokenizer.
    """
    kind, info = find_tokenizer_tensor(path)
    return kind, bytes(read_tensors({kind: info})[kind].flatten().numpy().tobytes())


def find_tokenizer_tensor(path: Path) -> tuple[str, TensorInfo]:
    """Name and header entry of the tensor that holds the tokenizer in the file ``path``.

    Raises ValueError if there is none.
    """
    header = read_header(path)
    for kind in TOKENIZERS:
        info = header.tensors.get(kind)
        if info is not None and info.dtype in ("U8", "I8"):
            return kind, info
    raise ValueError(
        f"{path} contains no tokenizer (a tensor {' or '.join(TOKENIZERS)}); use a file that does, such as "
        "gemma_3_12B_it, or the Hugging Face folder of the text encoder"
    )


def gemma3_settings() -> JsonObject:
    """The settings of the released Gemma 3 12B that the shapes of its tensors do not determine.

    Keys and values are those of its ``config.json``.
    """
    # A new dict at every call, because its readers may change the nested one.
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "sliding_window": 1024,
        "sliding_window_pattern": 6,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
    }


def _config_of(infos: Mapping[str, TensorInfo]) -> JsonObject:
    """Reconstruct the configuration of a Gemma 3, or of a Gemma 4 E2B or E4B, from the shapes of its tensors.

    ``infos`` are their header entries by name in the language model. Settings that shapes do not determine
    are those of the released models, for a Gemma 3 the 12B one.
    """
    shapes = {name: decoded_shape(info) for name, info in infos.items()}
    if MARK in shapes:
        return gemma4_config(shapes)
    vocab_size, hidden = shapes["embed_tokens.weight"]
    attention = "layers.0.self_attn."
    (head_dim,) = shapes[f"{attention}q_norm.weight"]
    layers = {int(name.split(".")[1]) for name in shapes if name.startswith("layers.")}
    return {
        "model_type": "gemma3_text",
        "vocab_size": vocab_size,
        "hidden_size": hidden,
        "intermediate_size": shapes["layers.0.mlp.gate_proj.weight"][0],
        # The number of different indices, not the highest one, which a damaged name could make huge.
        "num_hidden_layers": len(layers),
        "num_attention_heads": shapes[f"{attention}q_proj.weight"][0] // head_dim,
        "num_key_value_heads": shapes[f"{attention}k_proj.weight"][0] // head_dim,
        "head_dim": head_dim,
        "query_pre_attn_scalar": head_dim,
        **gemma3_settings(),
    }


def _describe_other(names: Iterable[str], infos: Mapping[str, TensorInfo]) -> str | None:
    """Say in words what a file is if it is neither a Gemma 3 nor a Gemma 4 E2B or E4B; None if it is one.

    ``names`` are those of all its tensors, ``infos`` the header entries of those that look like a language
    model's.
    """
    all_names = list(names)

    def has(pattern: str) -> bool:
        return any(re.search(pattern, name) for name in all_names)

    if MARK in infos:
        return None
    if "layers.0.layer_scalar" in infos:
        return "a Gemma 4 without its 'gemma_config' metadata"
    if "layers.0.self_attn.q_norm.weight" in infos and "layers.0.post_feedforward_layernorm.weight" in infos:
        return None
    if has(r"encoder\.block\.0\.layer\.0\.SelfAttention\.q\.weight$"):
        return "a T5, the text encoder of other video models"
    if has(r"text_model\.encoder\.layers\.0\.|^transformer\.resblocks\.0\.|conditioner\.embedders\."):
        return "a CLIP text encoder"
    if has(r"adaln_single\.linear\.weight$"):
        return "an LTX-2 checkpoint, which never holds the text encoder"
    if "layers.0.post_feedforward_layernorm.weight" in infos:
        return "a Gemma 2"
    if "layers.0.self_attn.q_proj.weight" in infos:
        return "a language model of another family (Llama, Qwen, Mistral, an older Gemma)"
    return f"something with tensors such as {', '.join(sorted(all_names)[:3]) or '(none)'}"
