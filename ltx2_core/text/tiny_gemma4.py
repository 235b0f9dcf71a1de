"""Writes a tiny Gemma 4 with random weights and a working tokenizer, as a Hugging Face folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..storage.writing import write_tensors
from .tiny_gemma import SPACE, VOCAB_SIZE, write_json, write_tokenizer

_HEADS, _KV_HEADS, _HEAD_DIM, _FEED_FORWARD = 2, 1, 16, 128


def write_tiny_gemma4(
    folder: Path,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.bfloat16,
    hidden_size: int = 64,
    layers: int = 4,
) -> None:
    """Write the configuration, weights and tokenizer of a text model like that of LTX-2.5 into ``folder``.

    The weights depend on ``seed`` and the sizes only. Raises ValueError where the installed transformers
    library has no Gemma 4.
    """
    fields: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": hidden_size,
        "intermediate_size": _FEED_FORWARD,
        "num_hidden_layers": layers,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _KV_HEADS,
        "head_dim": _HEAD_DIM,
    }
    model = _model(fields)
    generator = torch.Generator().manual_seed(seed)
    random = {name for name, _ in model.named_parameters()}
    # Buffers, such as the scale of a layer, have the values that the library sets.
    tensors = {
        name: _random(tensor, generator) if name in random else tensor
        for name, tensor in sorted(model.state_dict().items())
    }
    _write(folder, model, tensors, dtype)
    write_tokenizer(folder)


def translate_tiny_gemma(
    folder: Path,
    source: Path,
    *,
    words: Sequence[str],
    alike: Sequence[str] = (),
    vocab_size: int,
    seed: int = 0,
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """Write a Gemma 4 into ``folder`` whose hidden states are near those of the tiny Gemma 3 in ``source``.

    All layers but the last compute nearly the same. The last one differs, because in a Gemma 4 it attends to
    the whole prompt with one projection for keys and values. Weights have ``dtype``. The new tokenizer has
    ``vocab_size`` tokens at most, among them ``words``. Tokens that ``source`` has too get their embedding
    there; others get a random one, drawn by ``seed``. Those of the words ``alike`` share a part of it, so
    that they are easily told from all other words.

    Raises ValueError where the installed transformers library has no Gemma 4.
    """
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    shared = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim")
    fields = {name: config[name] for name in (*shared, "num_key_value_heads")}
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder, words, vocab_size)
    found = len(_vocabulary(folder))
    model = _model({**fields, "vocab_size": found, "global_head_dim": config["head_dim"]})
    old = load_file(source / "model.safetensors")
    embedding = old["model.embed_tokens.weight"].float()
    tensors: dict[str, Tensor] = {}
    for name, tensor in sorted(model.state_dict().items()):
        if name == "embed_tokens.weight":
            tensors[name] = _translated(embedding, source, folder, alike, seed)
        elif name.endswith("layer_scalar"):
            tensors[name] = tensor
        else:
            weight = old[f"model.{name}"].float()
            # Gemma 3 adds 1 to its norm weights, and divides the products of queries and keys.
            weight = weight + 1 if weight.ndim == 1 else weight
            tensors[name] = weight * config["head_dim"] ** -0.5 if "q_norm" in name else weight
    _write(folder, model, tensors, dtype)


def _translated(embedding: Tensor, source: Path, folder: Path, alike: Sequence[str], seed: int) -> Tensor:
    """Make the embedding (tokens, D) for the tokenizer in ``folder`` from that for the one in ``source``.

    ``embedding`` (tokens of ``source``, D) is the latter. New tokens get random vectors of width D, drawn by
    ``seed``; those of the words ``alike`` share a part of theirs.
    """
    known, wanted = (_vocabulary(path) for path in (source, folder))
    generator = torch.Generator().manual_seed(seed)
    shared = _random(embedding[:1], generator)[0]
    result = _random(torch.empty(len(wanted), embedding.shape[1]), generator)
    for piece, index in wanted.items():
        if piece in known:
            result[index] = embedding[known[piece]]
        elif piece.lstrip(SPACE).lower() in alike:
            # The sum of the squares is 1, so that such words are as large as any other.
            result[index] = _COMMON * shared + (1 - _COMMON**2) ** 0.5 * result[index]
    return result


_COMMON = 0.75
"""Weight of the part of the embedding that words of one kind share."""


def _vocabulary(folder: Path) -> dict[str, int]:
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    return dict(tokenizer["model"]["vocab"])


def _model(fields: Mapping[str, Any]) -> Any:
    """Build the text model of a Gemma 4 with the settings ``fields``, and those that all tiny ones share.

    Raises ValueError where the installed transformers library has no Gemma 4.
    """
    import transformers

    if not hasattr(transformers, "Gemma4UnifiedTextModel"):
        raise ValueError(
            f"transformers {transformers.__version__} has no Gemma 4, the text encoder of LTX-2.5: "
            "pip install -U transformers"
        )
    settings: dict[str, Any] = {
        "attention_k_eq_v": True,
        "layer_types": ["sliding_attention"] * (fields["num_hidden_layers"] - 1) + ["full_attention"],
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
    }
    return transformers.Gemma4UnifiedTextModel(transformers.Gemma4UnifiedTextConfig(**fields, **settings))


def _write(folder: Path, model: Any, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """Write config.json and model.safetensors; ``tensors`` are those of ``model``, stored in ``dtype``."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = {f"model.{name}": tensor.to(dtype) for name, tensor in tensors.items()}
    write_tensors(folder / "model.safetensors", stored, {"format": "pt"})
    write_json(folder / "config.json", {**model.config.to_dict(), "model_type": "gemma4_unified_text"})


def _random(like: Tensor, generator: torch.Generator) -> Tensor:
    # Gemma 4 multiplies by its norm weights as they are, so that they lie around 1.
    if like.ndim == 1:
        return 1 + 0.1 * torch.randn(like.shape, generator=generator)
    std: float = like.shape[-1] ** -0.5
    return torch.randn(like.shape, generator=generator) * std
