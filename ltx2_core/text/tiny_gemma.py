"""Writes a tiny Gemma 3 with random weights and a working tokenizer, as a Hugging Face folder."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from tokenizers import AddedToken, decoders, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.models import BPE
from torch import Tensor

from ..storage.files import JsonObject
from ..storage.writing import write_tensors
from .single_file import gemma3_settings

VOCAB_SIZE = 512
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>")
SPACE = "▁"

_HEADS, _KV_HEADS, _FEED_FORWARD = 2, 1, 128

_WORDS = """
a the an and of in on to from with at by into over under is are it its then while as after before
red green blue yellow orange purple white black pink grey bright dark light small big large tiny
circle square triangle ring star ball cube line dot shape shapes world background colour color
moves moving move rolls bounces bouncing falls rises turns spins grows shrinks stops starts appears
left right up down centre center middle top bottom corner across slowly quickly fast slow steady
sound sounds sounding tone low high soft loud deep click beep hum noise music voice silence
video scene camera shot close view still pans zooms man woman child dog cat bird tree water sky
sea street city night day sun rain wind fire hand face eyes says speaks singing walking running
"""


def write_tiny_gemma(
    folder: Path,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.bfloat16,
    hidden_size: int = 64,
    layers: int = 4,
    head_dim: int = 256,
    words: Sequence[str] = (),
    vocab_size: int = VOCAB_SIZE,
) -> None:
    """Write config.json, model.safetensors, tokenizer.json and tokenizer_config.json into ``folder``.

    The weights depend on ``seed`` and the sizes only. The tokenizer has ``vocab_size`` tokens: four special
    ones, all bytes, so that any text can be encoded, and pieces of words. Each of ``words`` becomes a single
    token, with and without a capital, as long as there is room. ``hidden_size`` is the width of hidden
    states, ``layers`` the number of layers; ComfyUI assumes a ``head_dim`` of 256.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config: JsonObject = {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "intermediate_size": _FEED_FORWARD,
        "num_hidden_layers": layers,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _KV_HEADS,
        "head_dim": head_dim,
        "query_pre_attn_scalar": head_dim,
        **gemma3_settings(),
        "tie_word_embeddings": True,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }
    write_json(folder / "config.json", config)
    generator = torch.Generator().manual_seed(seed)
    shapes = _shapes(
        vocab_size, hidden_size, layers, _HEADS * head_dim, _KV_HEADS * head_dim, head_dim, _FEED_FORWARD
    )
    tensors = {name: _random(shape, generator).to(dtype) for name, shape in shapes}
    write_tensors(folder / "model.safetensors", tensors, {"format": "pt"})
    write_tokenizer(folder, words, vocab_size)


def write_tokenizer(folder: Path, words: Sequence[str] = (), vocab_size: int = VOCAB_SIZE) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json`` of a tiny tokenizer into ``folder``.

    ``words`` and ``vocab_size`` are those of :func:`tiny_tokenizer`: words that become tokens, and the number
    of tokens.
    """
    tiny_tokenizer(words, vocab_size).save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", _tokenizer_config())


def tiny_tokenizer(words: Sequence[str] = (), vocab_size: int = VOCAB_SIZE) -> FastTokenizer:
    """Build a BPE tokenizer with byte fallback, with its tokens in the order of Gemma's.

    They are pad, eos, bos, unk, all bytes, then pieces of words up to ``vocab_size`` tokens: pieces of
    ``words`` first, then of common English words.
    """
    # A word at the start of a prompt has no space before it, and may have a capital.
    own = [form for word in words for form in (SPACE + word, word, word.capitalize())]
    common = [SPACE + word for word in _WORDS.split()]
    merges = [*_learn_merges(own, vocab_size), *_learn_merges(common, vocab_size)]
    # Every letter is a token, so that merges always find their parts.
    letters = sorted({*"".join(own), *"".join(common), *",.!?'-"})
    pieces = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    pieces = list(dict.fromkeys([*pieces, *(left + right for left, right in merges)]))[:vocab_size]
    known = set(pieces)
    model = BPE(
        vocab={piece: index for index, piece in enumerate(pieces)},
        merges=[pair for pair in dict.fromkeys(merges) if {*pair, pair[0] + pair[1]} <= known],
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = FastTokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    return tokenizer


def _learn_merges(words: list[str], count: int) -> list[tuple[str, str]]:
    """Learn at most ``count`` byte-pair merges from ``words``, most frequent pair first, ties by alphabet."""
    split = Counter(tuple(word) for word in words)
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for parts, times in split.items():
            for pair in pairwise(parts):
                pairs[pair] += times
        if not pairs:
            break
        # Ties are broken alphabetically, so that the tokenizer is the same on every machine.
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        split = Counter({_merge(parts, best): times for parts, times in split.items()})
    return merges


def _merge(parts: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    merged: list[str] = []
    for part in parts:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return tuple(merged)


def _shapes(
    vocabulary: int, hidden: int, layers: int, query: int, key: int, head_dim: int, intermediate: int
) -> list[tuple[str, tuple[int, ...]]]:
    shapes: list[tuple[str, tuple[int, ...]]] = [("model.embed_tokens.weight", (vocabulary, hidden))]
    for layer in range(layers):
        block: dict[str, tuple[int, ...]] = {
            "input_layernorm": (hidden,),
            "self_attn.q_proj": (query, hidden),
            "self_attn.k_proj": (key, hidden),
            "self_attn.v_proj": (key, hidden),
            "self_attn.o_proj": (hidden, query),
            "self_attn.q_norm": (head_dim,),
            "self_attn.k_norm": (head_dim,),
            "post_attention_layernorm": (hidden,),
            "pre_feedforward_layernorm": (hidden,),
            "mlp.gate_proj": (intermediate, hidden),
            "mlp.up_proj": (intermediate, hidden),
            "mlp.down_proj": (hidden, intermediate),
            "post_feedforward_layernorm": (hidden,),
        }
        shapes.extend((f"model.layers.{layer}.{name}.weight", shape) for name, shape in block.items())
    return [*shapes, ("model.norm.weight", (hidden,))]


def _random(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    # Gemma adds 1 to the stored norm weights and multiplies the embedding by sqrt(hidden).
    # The scale makes activations stay near 1 at any width.
    std = 0.1 if len(shape) == 1 else shape[-1] ** -0.5
    return torch.randn(shape, generator=generator) * std


def _tokenizer_config() -> JsonObject:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": True,
        "add_eos_token": False,
        "pad_token": "<pad>",
        "eos_token": "<eos>",
        "bos_token": "<bos>",
        "unk_token": "<unk>",
        "padding_side": "left",
        "model_max_length": 131072,
        "clean_up_tokenization_spaces": False,
    }


def write_json(path: Path, value: JsonObject) -> None:
    """Write ``value`` to the file ``path``, indented."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
