"""Writes a tiny Gemma 4 with random weights and a working tokenizer, as a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from .tiny_gemma import VOCAB_SIZE, write_json, write_tokenizer

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
    import transformers

    if not hasattr(transformers, "Gemma4UnifiedTextModel"):
        raise ValueError(
            f"transformers {transformers.__version__} has no Gemma 4, the text encoder of LTX-2.5: "
            "pip install -U transformers"
        )
    folder.mkdir(parents=True, exist_ok=True)
    fields: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": hidden_size,
        "intermediate_size": _FEED_FORWARD,
        "num_hidden_layers": layers,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _KV_HEADS,
        "head_dim": _HEAD_DIM,
        "attention_k_eq_v": True,
        "layer_types": ["sliding_attention"] * (layers - 1) + ["full_attention"],
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
    }
    config = transformers.Gemma4UnifiedTextConfig(**fields)
    model: Any = transformers.Gemma4UnifiedTextModel(config)
    generator = torch.Generator().manual_seed(seed)
    random = {name for name, _ in model.named_parameters()}
    # Buffers, such as the scale of a layer, keep the values that the library gives them.
    tensors = {
        f"model.{name}": (_random(tensor, generator) if name in random else tensor).to(dtype)
        for name, tensor in sorted(model.state_dict().items())
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", {**config.to_dict(), "model_type": "gemma4_unified_text"})
    write_tokenizer(folder)


def _random(like: Tensor, generator: torch.Generator) -> Tensor:
    # Gemma 4 multiplies by its norm weights as they are, so that they lie around 1.
    if like.ndim == 1:
        return 1 + 0.1 * torch.randn(like.shape, generator=generator)
    std: float = like.shape[-1] ** -0.5
    return torch.randn(like.shape, generator=generator) * std
