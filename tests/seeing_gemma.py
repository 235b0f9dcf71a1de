"""Writes tiny Gemmas that take images, as folders of Hugging Face and as single files of ComfyUI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from talking_gemma import VOCABULARY, with_marks
from tokenizers import AddedToken
from tokenizers import Tokenizer as FastTokenizer

from ltx2_core.text.tokenizer import IMAGE_MARKERS

SIZE = VOCABULARY + 6
TEXT: dict[str, Any] = {
    "vocab_size": SIZE,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
VISION: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}


def with_image_marks(folder: Path, generation: int) -> dict[str, int]:
    """Add the tokens of an image to the tokenizer of ``folder``; returns their ids."""
    with_marks(folder)
    path = str(folder / "tokenizer.json")
    fast = FastTokenizer.from_file(path)
    marks = IMAGE_MARKERS[generation]
    fast.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks])
    fast.save(path)
    return {mark: fast.token_to_id(mark) for mark in marks}


def written(folder: Path, generation: int) -> Path:
    """Write a tiny multimodal Gemma of random weights into ``folder``, as Hugging Face has it."""
    import transformers

    folder.mkdir(parents=True)
    ids = with_image_marks(folder, generation)
    image_token = ids[IMAGE_MARKERS[generation][1]]
    torch.manual_seed(generation)
    if generation == 3:
        config = transformers.Gemma3Config(
            text_config={**TEXT, "query_pre_attn_scalar": 16, "sliding_window": 64},
            vision_config={
                **VISION, "image_size": 56, "patch_size": 14, "num_attention_heads": 2,
                "vision_use_head": False,
            },
            mm_tokens_per_image=4,
            image_token_id=image_token,
        )  # fmt: skip
        model = transformers.Gemma3ForConditionalGeneration(config)
    else:
        config = transformers.Gemma4Config(
            text_config={
                **TEXT,
                "vocab_size_per_layer_input": SIZE,
                "hidden_size_per_layer_input": 16,
                "global_head_dim": 32,
                "num_kv_shared_layers": 2,
                "use_double_wide_mlp": True,
                "final_logit_softcapping": 30.0,
                "sliding_window": 512,
            },
            vision_config={
                **VISION, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16,
                "use_clipped_linears": True, "position_embedding_size": 1024,
            },
            audio_config=None,
            image_token_id=image_token,
        )  # fmt: skip
        model = transformers.Gemma4ForConditionalGeneration(config)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            # Released layers are clipped at finite values.
            if name.endswith(("_min", "_max")):
                tensor.fill_(-3.0 if name.endswith("_min") else 3.0)
            elif "position" in name or "projection_weight" in name:
                tensor.normal_(std=0.3)
    model.save_pretrained(folder)
    return folder


def in_one_file(folder: Path) -> Path:
    """Write the Gemma 4 of ``folder`` into one file beside it, as ComfyUI does: without a configuration."""
    tensors = load_file(folder / "model.safetensors")
    packed = {
        name.replace("model.language_model.", "model.")
        .replace("model.vision_tower.", "vision_model.")
        .replace("model.embed_vision.", "multi_modal_projector."): tensor
        for name, tensor in tensors.items()
        if name != "lm_head.weight"
    }
    tokenizer = (folder / "tokenizer.json").read_bytes()
    packed["tokenizer_json"] = torch.frombuffer(bytearray(tokenizer), dtype=torch.uint8)
    path = folder.parent / "gemma4_e2b_it_bf16.safetensors"
    save_file(packed, path)
    return path
