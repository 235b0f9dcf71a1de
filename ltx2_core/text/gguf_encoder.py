"""Reads Gemma 3 from a GGUF file of llama.cpp: settings, names of tensors, and the tokenizer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, decoders, normalizers, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.models import BPE
from torch import Tensor

from ..storage.files import JsonObject
from ..storage.gguf import is_gguf, read_gguf_header
from ..storage.header import Header, TensorInfo
from ..storage.reading import read_tensors

ARCHITECTURE = "gemma3"
_PIECES = "tokenizer.ggml."
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4
"""Kinds of pieces of a sentencepiece model: found by merges, written by programs alone, found as a whole."""
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")

_OUTER = {"token_embd": "embed_tokens", "output_norm": "norm"}
_INNER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Name of a tensor within a block of llama.cpp -> its name within a layer of transformers."""


def read_gguf_encoder(path: Path) -> tuple[JsonObject, dict[str, TensorInfo], Header]:
    """Read the header of the GGUF file ``path``, a Gemma 3.

    Returns the settings that the file states, the header entries of the language model's tensors by their
    name there, and the whole header. Raises ValueError if it is another model.
    """
    header = read_gguf_header(path)
    kind = header.metadata.get("general.architecture")
    if kind != ARCHITECTURE:
        raise ValueError(
            f"{path} is a GGUF of the architecture {kind or '(none)'}; as a text encoder a GGUF must be a "
            f"Gemma 3 ({ARCHITECTURE}), such as gemma-3-12b-it-Q4_K_M. The Gemma 4 of LTX-2.5 is read from "
            "safetensors"
        )
    infos = {own: info for name, info in header.tensors.items() if (own := _language_name(name))}
    return _settings(header.metadata), infos, header


def add_gguf_norms(
    state: dict[str, Tensor], infos: Mapping[str, TensorInfo], dtype: torch.dtype, device: torch.device
) -> None:
    """Replace the norms of ``state`` that are from GGUF files by those of transformers, as ``dtype``.

    ``infos`` are the header entries of its tensors. Norms of transformers multiply by 1 + weight, and
    llama.cpp stores the sum.
    """
    norms = {name: i for name, i in infos.items() if name.endswith("norm.weight") and is_gguf(i.path)}
    # In float32, since the sum in bfloat16 has fewer digits of the weight.
    for name, stored in read_tensors(norms).items():
        state[name] = (stored.float() - 1).to(device=device, dtype=dtype)


def check_gguf_tokenizer(path: Path) -> None:
    """Raise ValueError unless the GGUF file ``path`` or its folder holds Gemma's tokenizer."""
    if _beside(path) is None:
        _check_facts(path, read_gguf_header(path).metadata)


def read_gguf_tokenizer(path: Path) -> tuple[Path, str, bytes]:
    """Read the tokenizer of the GGUF file ``path``: (file that holds it, its kind, its bytes).

    A ``tokenizer.json`` or ``tokenizer.model`` beside the file takes precedence over the file's metadata.
    Raises ValueError if there is neither.
    """
    beside = _beside(path)
    if beside is not None:
        return beside, "tokenizer_json" if beside.suffix == ".json" else "spiece_model", beside.read_bytes()
    fields = import_module("gguf").GGUFReader(path).fields
    facts = {
        name.removeprefix(_PIECES): field.contents()
        for name, field in fields.items()
        if name.startswith(_PIECES)
    }
    _check_facts(path, {f"{_PIECES}{name}": value for name, value in facts.items()})
    missing = [name for name in ("tokens", "scores", "token_type") if name not in facts]
    if missing:
        raise ValueError(f"{path} has a tokenizer without {', '.join(missing)}; {_ELSE}")
    built = _tokenizer(facts["tokens"], facts["scores"], facts["token_type"])
    return path, "tokenizer_json", built.to_str().encode()


_ELSE = "put tokenizer.json or tokenizer.model of Gemma 3 beside it"


def _beside(path: Path) -> Path | None:
    found = (path.with_name(name) for name in ("tokenizer.json", "tokenizer.model"))
    return next((file for file in found if file.is_file()), None)


def _check_facts(path: Path, metadata: Mapping[str, Any]) -> None:
    kind = metadata.get(f"{_PIECES}model")
    if kind != "llama":
        found = f"a tokenizer of the kind {kind}" if kind else "no tokenizer"
        raise ValueError(f"{path} has {found} in its metadata, and none of Gemma 3: {_ELSE}")


def _language_name(name: str) -> str | None:
    """The name in transformers of the tensor that llama.cpp calls ``name``; None for other tensors."""
    block = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    if block:
        inner = _INNER.get(block[2])
        return inner and f"layers.{int(block[1])}.{inner}.weight"
    outer = _OUTER.get(name.removesuffix(".weight"))
    return outer and f"{outer}.weight"


def _settings(metadata: Mapping[str, Any]) -> JsonObject:
    """Settings of transformers that the metadata of llama.cpp states, and that shapes do not determine."""
    named = {
        "rms_norm_eps": "attention.layer_norm_rms_epsilon",
        "rope_theta": "rope.freq_base",
        "sliding_window": "attention.sliding_window",
        "max_position_embeddings": "context_length",
    }
    stated = {own: metadata.get(f"{ARCHITECTURE}.{name}") for own, name in named.items()}
    found: JsonObject = {own: value for own, value in stated.items() if isinstance(value, int | float)}
    factor = metadata.get(f"{ARCHITECTURE}.rope.scaling.factor")
    if isinstance(factor, int | float):
        found["rope_scaling"] = {"rope_type": "linear", "factor": float(factor)}
    return found


def _tokenizer(pieces: Sequence[str], scores: Sequence[float], kinds: Sequence[int]) -> FastTokenizer:
    """A tokenizer that merges as the sentencepiece model with these pieces does.

    A sentencepiece model of byte pairs joins the two neighbours whose union has the highest score; pieces
    that users defined are found as a whole before that.
    """
    ids = {piece: number for number, piece in enumerate(pieces)}
    mergeable = {
        piece: score for piece, score, kind in zip(pieces, scores, kinds, strict=True) if kind == _NORMAL
    }
    model = BPE(
        vocab=ids,
        merges=_merges(mergeable, ids),
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=any(map(_BYTE.fullmatch, pieces)),
    )
    tokenizer = FastTokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    of = {kind: [p for p, k in zip(pieces, kinds, strict=True) if k == kind] for kind in set(kinds)}
    # Found in the text with its spaces replaced, as those of sentencepiece.
    tokenizer.add_tokens([AddedToken(piece, normalized=True) for piece in of.get(_USER_DEFINED, [])])
    control = [*of.get(_CONTROL, []), *(["<unk>"] if "<unk>" in ids else [])]
    tokenizer.add_special_tokens([AddedToken(piece, normalized=False, special=True) for piece in control])
    return tokenizer


def _merges(scores: Mapping[str, float], ids: Mapping[str, int]) -> list[tuple[str, str]]:
    """All pairs of pieces whose union is a piece, that of the highest score first."""

    def pairs(piece: str) -> Iterable[tuple[str, str]]:
        halves = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
        known = [(left, right) for left, right in halves if left in scores and right in scores]
        return sorted(known, key=lambda pair: (ids[pair[0]], ids[pair[1]]))

    return [pair for piece in sorted(scores, key=lambda p: -scores[p]) for pair in pairs(piece)]
