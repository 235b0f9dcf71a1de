"""Writes a tiny T5 encoder with random weights and a working tokenizer, as a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import AddedToken, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.models import Unigram

from ..storage.files import JsonObject
from ..storage.writing import write_tensors
from .tiny_gemma import write_json

_HEADS, _FEED_FORWARD, _BUCKETS = 4, 96, 32
_SPECIAL = ("<pad>", "</s>", "<unk>")
_LETTERS = "▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?'-:;\"()"


def write_tiny_t5(
    folder: Path,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.bfloat16,
    hidden_size: int = 64,
    layers: int = 2,
) -> None:
    """Write config.json, model.safetensors and tokenizer.json into ``folder``.

    Weights depend on ``seed`` and the sizes only. Each letter is a token, so that any prompt is encoded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = len(_SPECIAL) + len(_LETTERS)
    head_dim = hidden_size // _HEADS
    config: JsonObject = {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "vocab_size": vocabulary,
        "d_model": hidden_size,
        "d_kv": head_dim,
        "d_ff": _FEED_FORWARD,
        "num_layers": layers,
        "num_heads": _HEADS,
        "relative_attention_num_buckets": _BUCKETS,
        "feed_forward_proj": "gated-gelu",
        "layer_norm_epsilon": 1e-6,
    }
    write_json(folder / "config.json", config)
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return (torch.randn(shape, generator=generator) * scale).to(dtype)

    tensors = {"shared.weight": normal(vocabulary, hidden_size)}
    wide, narrow = hidden_size**-0.5, _FEED_FORWARD**-0.5
    for block in range(layers):
        attention, forward = (f"encoder.block.{block}.layer.{n}." for n in (0, 1))
        for name in "qkvo":
            # Scores are not divided by the width of a head.
            scale = wide * (head_dim**-0.25 if name in "qk" else 1.0)
            tensors[f"{attention}SelfAttention.{name}.weight"] = normal(hidden_size, hidden_size, scale=scale)
        if block == 0:
            tensors[f"{attention}SelfAttention.relative_attention_bias.weight"] = normal(_BUCKETS, _HEADS)
        for name, shape in (("wi_0", (_FEED_FORWARD, hidden_size)), ("wi_1", (_FEED_FORWARD, hidden_size))):
            tensors[f"{forward}DenseReluDense.{name}.weight"] = normal(*shape, scale=wide)
        tensors[f"{forward}DenseReluDense.wo.weight"] = normal(hidden_size, _FEED_FORWARD, scale=narrow)
        for own in (attention, forward):
            tensors[f"{own}layer_norm.weight"] = torch.ones(hidden_size, dtype=dtype)
    tensors["encoder.final_layer_norm.weight"] = torch.ones(hidden_size, dtype=dtype)
    write_tensors(folder / "model.safetensors", tensors, {"format": "pt"})
    tiny_t5_tokenizer().save(str(folder / "tokenizer.json"))


def tiny_t5_tokenizer() -> FastTokenizer:
    """A tokenizer of single letters, with T5's special tokens at their numbers."""
    pieces = [(piece, 0.0) for piece in _SPECIAL] + [(letter, -1.0) for letter in _LETTERS]
    tokenizer = FastTokenizer(Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens([AddedToken(piece, special=True) for piece in _SPECIAL])
    return tokenizer
