"""Selects the keys and values of a text encoder's configuration that reach the transformers library.

Some keys make that library load code: ``auto_map``, ``_attn_implementation``, ``quantization_config``. So
only keys that describe the network are passed on, and only with plain values.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ..storage.files import JsonObject, ParsedJson

# transformers builds a module for each layer, so that a huge number would take all memory on any device.
MAX_LAYERS = 1000
MAX_SIZE = 2**31

NUMBERS = frozenset({
    "vocab_size", "vocab_size_per_layer_input", "hidden_size", "hidden_size_per_layer_input",
    "intermediate_size", "moe_intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "num_global_key_value_heads", "num_kv_shared_layers", "num_experts",
    "top_k_experts", "head_dim", "global_head_dim", "query_pre_attn_scalar", "max_position_embeddings",
    "sliding_window", "sliding_window_pattern", "_sliding_window_pattern", "rms_norm_eps", "rope_theta",
    "rope_local_base_freq", "attention_dropout", "initializer_range", "final_logit_softcapping",
    "attn_logit_softcapping", "pad_token_id", "bos_token_id", "partial_rotary_factor",
})  # fmt: skip
"""Keys whose value is a number or null."""

SWITCHES = frozenset({
    "attention_bias", "attention_k_eq_v", "enable_moe_block", "tie_word_embeddings", "use_double_wide_mlp",
})  # fmt: skip
"""Keys whose value is true or false."""

WORDS: Mapping[str, frozenset[Any]] = {
    "hidden_activation": frozenset({"gelu_pytorch_tanh", "gelu", "gelu_new", "silu"}),
    "use_bidirectional_attention": frozenset({True, False, None, "vision", "all"}),
    "model_type": frozenset({"gemma3_text", "gemma4_text", "gemma4_unified_text"}),
}
"""Keys with a few known values."""

ROPE = frozenset({"rope_parameters", "rope_scaling"})
ROPE_TYPES = frozenset({"default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional"})
LAYER_TYPES = frozenset({"sliding_attention", "full_attention"})


def network_settings(config: ParsedJson) -> ParsedJson:
    """Select the entries of a text encoder's ``config`` that describe the network, and check their values.

    Raises ValueError that names the key for a value that no Gemma has: of another type, an unknown word, or a
    size beyond ``MAX_SIZE`` (``MAX_LAYERS`` for the layers).
    """
    settings: JsonObject = {}
    for key, value in config.items():
        if key in NUMBERS:
            _require(value is None or _is_number(value), key, value, "a number")
        elif key in SWITCHES:
            _require(value is None or isinstance(value, bool), key, value, "true or false")
        elif key in WORDS:
            _require(_is_word(value, WORDS[key]), key, value, f"one of {_listed(WORDS[key])}")
        elif key == "eos_token_id":
            numbers = value if isinstance(value, list) else [value]
            _require(all(n is None or _is_number(n) for n in numbers), key, value, "numbers")
        elif key == "layer_types":
            fits = value is None or (
                isinstance(value, list)
                and len(value) <= MAX_LAYERS
                and all(_is_word(kind, LAYER_TYPES) for kind in value)
            )
            _require(fits, key, value, f"a list of {_listed(LAYER_TYPES)}")
        elif key in ROPE:
            _require(value is None or _is_rope(value), key, value, "numbers and a known rope_type")
        elif key == "per_layer_config":
            fits = isinstance(value, Mapping) and all(
                isinstance(layer, Mapping) and all(k in NUMBERS and _is_number(v) for k, v in layer.items())
                for layer in value.values()
            )
            _require(fits, key, value, "numbers for each layer")
        # Unknown keys are left out, since some make the library load code.
        else:
            continue
        settings[key] = value
    layers = settings.get("num_hidden_layers")
    _require(
        layers is None or (isinstance(layers, int) and 1 <= layers <= MAX_LAYERS),
        "num_hidden_layers",
        layers,
        f"1 to {MAX_LAYERS}",
    )
    return settings


def check_layers(config: ParsedJson, names: Collection[str]) -> None:
    """Raise ValueError if ``config`` states another number of layers than the tensor ``names`` have."""
    stated = config.get("num_hidden_layers")
    # Distinct numbers, since a damaged name could claim a huge one.
    held = len({name.split(".")[1] for name in names if name.startswith("layers.")})
    if isinstance(stated, int) and stated != held:
        raise ValueError(
            f"num_hidden_layers is {stated} in the configuration and the weights have {held} layers: "
            "the weights do not fit the configuration"
        )


def _require(fits: bool, key: str, value: object, expected: str) -> None:
    if not fits:
        raise ValueError(f"configuration key {key!r} is {value!r:.60}; expected {expected}")


def _is_number(value: object) -> bool:
    # A bool is an int in Python and not a number in a configuration.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= MAX_SIZE


def _is_word(value: object, words: frozenset[Any]) -> bool:
    return isinstance(value, (str, bool, type(None))) and value in words


def _is_rope(value: object) -> bool:
    """Whether ``value`` is a plain rotary configuration: an object of numbers, lists of them and rope types.

    Its values may also be such objects, for example one for each type of layer, but these have no further
    objects in them.
    """
    if not isinstance(value, Mapping):
        return False
    for key, entry in value.items():
        if isinstance(entry, Mapping):
            if any(isinstance(inner, Mapping) for inner in entry.values()) or not _is_rope(entry):
                return False
        elif key in ("rope_type", "type"):
            if not _is_word(entry, ROPE_TYPES):
                return False
        elif not all(n is None or _is_number(n) or isinstance(n, bool) for n in _as_list(entry)):
            return False
    return True


def _as_list(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _listed(words: Collection[Any]) -> str:
    return ", ".join(sorted(str(word) for word in words))
