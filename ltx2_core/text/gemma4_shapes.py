"""The configuration of an instruction-tuned Gemma 4 (E2B, E4B) from the shapes of its tensors.

Single files of ComfyUI have no configuration. What shapes do not determine is that of the released models.
Letters: V tokens, D hidden width, L layers, W width of the embedding of each layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ..storage.files import JsonObject, JsonValue

Shapes = Mapping[str, tuple[int, ...]]
"""Name of a tensor in the language model -> its shape."""

MARK: Final = "embed_tokens_per_layer.weight"
"""The tensor by which E2B and E4B are told from other Gemmas: an embedding for each layer, (V, L * W)."""

_RELEASED: Final[JsonObject] = {
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "sliding_window": 512,
    "final_logit_softcapping": 30.0,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
_SHARED_BY_E4B: Final = {(2560, 42): 18}
"""(D, L) of E4B -> how many layers use keys of an earlier one, which neither names nor shapes say."""


def gemma4_config(shapes: Shapes) -> JsonObject:
    """Reconstruct the configuration of a Gemma 4 with an embedding for each layer.

    ``shapes`` are those of its language model; keys and values of the result are those of its config.json.
    Raises KeyError for a missing tensor, ValueError if shapes contradict each other or do not determine the
    configuration.
    """
    vocab_size, hidden = shapes["embed_tokens.weight"]
    layers = len({name.split(".")[1] for name in shapes if name.startswith("layers.")})
    vocab_per_layer, packed = shapes[MARK]
    widths = [shapes[f"layers.{layer}.self_attn.q_norm.weight"][0] for layer in range(layers)]
    # Layers that attend to all tokens have wider heads than those that attend to a window.
    head_dim, wide = min(widths), max(widths)
    if head_dim == wide or packed % layers:
        raise ValueError("its layers have heads of one width, or its embeddings do not fit their number")
    kinds: list[JsonValue] = [
        "sliding_attention" if width == head_dim else "full_attention" for width in widths
    ]
    # Layers that have keys of their own come first.
    local = widths.index(head_dim)
    return {
        "model_type": "gemma4_text",
        "vocab_size": vocab_size,
        "vocab_size_per_layer_input": vocab_per_layer,
        "hidden_size": hidden,
        "hidden_size_per_layer_input": packed // layers,
        "intermediate_size": shapes["layers.0.mlp.gate_proj.weight"][0],
        "num_hidden_layers": layers,
        "num_attention_heads": shapes[f"layers.{local}.self_attn.q_proj.weight"][0] // head_dim,
        "num_key_value_heads": shapes[f"layers.{local}.self_attn.k_proj.weight"][0] // head_dim,
        "head_dim": head_dim,
        "global_head_dim": wide,
        "layer_types": kinds,
        **_shared_layers(shapes, layers, hidden),
        **_RELEASED,
    }


def _shared_layers(shapes: Shapes, layers: int, hidden: int) -> JsonObject:
    """How many of the last layers use keys and values of an earlier one, and whether they are twice as wide.

    Those of E2B are, which tells them; files hold keys of all layers, though these are not read.
    """
    first = shapes["layers.0.mlp.gate_proj.weight"][0]
    double = sum(shapes[f"layers.{layer}.mlp.gate_proj.weight"][0] == 2 * first for layer in range(layers))
    if double:
        return {"num_kv_shared_layers": double, "use_double_wide_mlp": True}
    without = sum(f"layers.{layer}.self_attn.k_proj.weight" not in shapes for layer in range(layers))
    shared = without or _SHARED_BY_E4B.get((hidden, layers))
    if shared is None:
        raise ValueError("neither E2B nor E4B, and it has no 'gemma_config' in its metadata")
    return {"num_kv_shared_layers": shared, "use_double_wide_mlp": False}
