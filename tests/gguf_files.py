"""Writes GGUF files as others make them: transformers, and Gemma as llama.cpp converts it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ltx2_core.text.gguf_encoder import _INNER

gguf: Any = pytest.importorskip("gguf")
Q8_0, BF16 = gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.BF16


def write_gguf(path: Path, tensors: dict[str, torch.Tensor], *, shapes: bool = False) -> Path:
    """Write tensors as the makers of LTX-2 files do: matrices in blocks, the rest in BF16 and F32."""
    writer = gguf.GGUFWriter(path, "ltxv")
    for name, tensor in tensors.items():
        values = tensor.float().numpy()
        if values.ndim == 2 and values.shape[1] % 32 == 0 and name.endswith(".weight"):
            stored = gguf.quants.quantize(values, Q8_0)
            writer.add_tensor(name, stored, raw_dtype=Q8_0)
        elif shapes and name.endswith("scale_shift_table"):
            # Some makers write tables as one row and state their shape.
            writer.add_array(f"comfy.gguf.orig_shape.{name}", list(values.shape))
            writer.add_tensor(name, values.reshape(-1))
        elif values.ndim == 1 and name.endswith(".weight"):
            writer.add_tensor(name, gguf.quants.quantize(values, BF16), raw_dtype=BF16)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def llama_name(name: str) -> str:
    name = name.removeprefix("model.").removesuffix(".weight")
    outer = {"embed_tokens": "token_embd", "norm": "output_norm"}
    if name in outer:
        return f"{outer[name]}.weight"
    _, number, inner = name.split(".", 2)
    own = next(theirs for theirs, ours in _INNER.items() if ours == inner)
    return f"blk.{number}.{own}.weight"


def facts_of(folder: Path) -> tuple[list[str], list[float], list[int]]:
    """Pieces, scores and kinds of a tiny tokenizer, as the converter of llama.cpp writes them."""
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].get)
    ranks = {"".join(pair): -float(rank) for rank, pair in reversed(list(enumerate(model["merges"])))}
    kinds = [
        3 if piece in ("<pad>", "<eos>", "<bos>") else 6 if piece.startswith("<0x") else 1 for piece in pieces
    ]
    return pieces, [ranks.get(piece, -1e6) for piece in pieces], kinds


def write_encoder(
    folder: Path, path: Path, *, blocks: bool, tokenizer: bool = True, arch: str = "gemma3"
) -> Path:
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(path, arch)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_sliding_window(config["sliding_window"])
    if tokenizer:
        pieces, scores, kinds = facts_of(folder)
        writer.add_tokenizer_model("llama")
        writer.add_token_list(pieces)
        writer.add_token_scores(scores)
        writer.add_token_types(kinds)
    for name, tensor in load_file(folder / "model.safetensors").items():
        values = tensor.float().numpy()
        if name.endswith("norm.weight"):
            values = values + 1
        if blocks and values.ndim == 2:
            stored = gguf.quants.quantize(values, Q8_0)
            writer.add_tensor(llama_name(name), stored, raw_dtype=Q8_0)
        else:
            writer.add_tensor(llama_name(name), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
