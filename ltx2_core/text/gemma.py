"""Gemma 3 as a text encoder: all hidden states, one at a time.

Letters: B prompts, T tokens, D hidden width, L layers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from .folder import WeightSource, find_config, find_weights

OnHidden = Callable[[int, Tensor], None]
"""Called with (index, hidden (B, T, D)) while the model runs. It may raise to stop the run."""


class Gemma(nn.Module):
    """The inner Gemma 3 text model of the transformers library, without its output head."""

    def __init__(self, model: Any) -> None:
        """``model`` is a ``Gemma3TextModel``."""
        super().__init__()
        self.model = model
        self.hidden_size: int = model.config.hidden_size
        self.num_states: int = model.config.num_hidden_layers + 1
        self.vocab_size: int = model.config.vocab_size

    @torch.no_grad()
    def forward(self, input_ids: Tensor, attention_mask: Tensor, on_hidden: OnHidden) -> None:
        """Hand the L + 1 hidden states to ``on_hidden`` in order, as soon as each exists.

        ``input_ids`` and ``attention_mask`` (B, T), padded on the left. State 0 is the scaled embedding,
        states 1 ... L - 1 are what enters the next layer, state L comes after the final norm. Rows of padding
        tokens are arbitrary. Nothing is kept, so the whole stack never exists at once.
        """

        def entering(index: int) -> Callable[..., None]:
            def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                on_hidden(index, args[0] if args else kwargs["hidden_states"])

            return hook

        handles = [
            layer.register_forward_pre_hook(entering(index), with_kwargs=True)
            for index, layer in enumerate(self.model.layers)
        ]
        try:
            device = self.model.device
            output = self.model(
                input_ids=input_ids.to(device), attention_mask=attention_mask.to(device), use_cache=False
            )
        finally:
            for handle in handles:
                handle.remove()
        on_hidden(self.num_states - 1, output.last_hidden_state)


def load_gemma(folder: Path, *, dtype: torch.dtype, device: torch.device | str = "cpu") -> Gemma:
    """Load Gemma 3 from a Hugging Face folder, text-only or multimodal; vision weights are not read.

    Configuration and weights may lie in subfolders. On the CPU, tensors that already have ``dtype`` stay
    memory-mapped.

    Raises:
        ValueError: not a Gemma 3, weights absent or not fitting the configuration, or ``dtype`` is float16,
            whose range the hidden states exceed.
    """
    if dtype == torch.float16:
        raise ValueError("Gemma 3 overflows in float16; use torch.bfloat16 or torch.float32")
    config_path, config = find_config(folder)
    sources = find_weights(folder, config_path)
    try:
        return gemma_from_tensors(config, _read(sources, dtype, device))
    except ValueError as error:
        raise ValueError(f"text encoder {folder}: {error}") from error


def gemma_from_tensors(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Gemma:
    """Build Gemma from the fields of a ``Gemma3TextConfig`` and its tensors, which it keeps without a copy.

    ``tensors`` has the keys of the inner model: ``embed_tokens.weight``, ``layers.0. ...``, ``norm.weight``.

    Raises:
        ValueError: a tensor is missing, unexpected or of another shape than the configuration says.
    """
    # Importing the library takes seconds, which those who only need the connectors should not wait for.
    from transformers import Gemma3TextConfig, Gemma3TextModel

    with torch.device("meta"):
        model: Any = Gemma3TextModel(Gemma3TextConfig.from_dict(_portable(config)))
    _check(tensors, model.state_dict())
    model.load_state_dict(dict(tensors), strict=True, assign=True)
    _restore_constants(model)
    model.to(tensors["embed_tokens.weight"].device)
    return Gemma(model.eval().requires_grad_(False))


def _read(
    sources: Mapping[str, WeightSource], dtype: torch.dtype, device: torch.device | str
) -> dict[str, Tensor]:
    by_file: dict[Path, list[tuple[str, str]]] = defaultdict(list)
    for name, source in sources.items():
        by_file[source.path].append((name, source.key))
    tensors: dict[str, Tensor] = {}
    for path, names in by_file.items():
        with safe_open(path, framework="pt") as file:
            for name, key in names:
                tensors[name] = file.get_tensor(key).to(device=device, dtype=dtype)
    return tensors


def _portable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Spell the rotary fields in the way that every supported transformers release reads."""
    config = dict(config)
    rope = config.pop("rope_parameters", None)
    if rope:
        full = dict(rope["full_attention"])
        config["rope_theta"] = full.pop("rope_theta", 1e6)
        config["rope_local_base_freq"] = rope["sliding_attention"].get("rope_theta", 1e4)
        config["rope_scaling"] = None if full.get("rope_type", "default") == "default" else full
    return config


def _check(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    missing = sorted(expected.keys() - given.keys())
    unexpected = sorted(given.keys() - expected.keys())
    if missing or unexpected:
        raise ValueError(
            "the weights do not fit the configuration: "
            f"{len(missing)} tensors missing ({', '.join(missing[:3])}), "
            f"{len(unexpected)} unexpected ({', '.join(unexpected[:3])})"
        )
    for name, tensor in expected.items():
        if given[name].shape != tensor.shape:
            raise ValueError(
                f"{name} has shape {tuple(given[name].shape)}; its config.json says {tuple(tensor.shape)}"
            )


def _restore_constants(model: Any) -> None:
    """Recompute the constants that no checkpoint holds and that were built on the meta device."""
    model.embed_tokens.embed_scale = torch.tensor(model.config.hidden_size**0.5)
    for name, module in list(model.named_children()):
        if name.startswith("rotary_emb"):
            setattr(model, name, type(module)(module.config))
