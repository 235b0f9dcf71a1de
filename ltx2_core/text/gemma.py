"""Gemma 3 (LTX-2.0, 2.3) or Gemma 4 (2.5) as a text encoder that returns all hidden states, one at a time.

Letters: B prompts, T tokens, D hidden width, L layers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..storage.files import ParsedJson
from ..storage.header import TensorInfo
from ..torchaudio_import import without_broken_torchaudio
from .folder import find_config, find_weights
from .gguf_encoder import add_gguf_norms
from .settings import check_layers, network_settings
from .single_file import read_encoder_file
from .weights import read_weights

OnHidden = Callable[[int, Tensor], None]
"""Called with (index, hidden (B, T, D)) while the model runs. It may raise to stop the run."""


class Gemma(nn.Module):
    """The Gemma text model of the transformers library, without the head that predicts tokens."""

    def __init__(self, model: Any) -> None:
        """Wrap ``model``, a ``Gemma3TextModel`` or the text model of a Gemma 4."""
        super().__init__()
        self.model = model
        self.hidden_size: int = model.config.hidden_size
        self.num_states: int = model.config.num_hidden_layers + 1
        self.vocab_size: int = model.config.vocab_size
        self.generation: int = 4 if "gemma4" in model.config.model_type else 3

    @torch.no_grad()
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        on_hidden: OnHidden,
        *,
        embeds: Tensor | None = None,
    ) -> None:
        """Run the model and pass each of its L + 1 hidden states (B, T, D) to ``on_hidden`` one by one.

        B prompts, T tokens, D hidden width, L layers. ``on_hidden(index, state)`` is called as soon as each
        state is computed, so that the states are never all in memory. State 0 is the scaled embedding, state
        i the input of layer i, state L the output of the final norm; values at padding tokens are arbitrary.
        ``input_ids`` and ``attention_mask`` are (B, T), padded on the left. ``embeds`` (B, T, D) are scaled
        embeddings to use in place of those of the tokens; None uses the tokens.
        """

        def entering(index: int) -> Callable[..., None]:
            def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Tensor]) -> None:
                # Releases of transformers differ in how they pass it.
                on_hidden(index, args[0] if args else kwargs["hidden_states"])

            return hook

        # Hooks instead of output_hidden_states, which would hold all states in memory.
        handles = [
            layer.register_forward_pre_hook(entering(index), with_kwargs=True)
            for index, layer in enumerate(self.model.layers)
        ]
        try:
            device = self.model.device
            tokens = {"input_ids": input_ids.to(device)} if embeds is None else {"inputs_embeds": embeds}
            # Without a cache of keys and values, which serves the generation of tokens alone.
            output = self.model(**tokens, attention_mask=attention_mask.to(device), use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        # The last state is normalised, unlike the inputs of layers that hooks get.
        on_hidden(self.num_states - 1, output.last_hidden_state)


def load_gemma(
    path: str | os.PathLike[str], *, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> Gemma:
    """Load Gemma from a Hugging Face folder or a single file; of a multimodal model, only its text part.

    Configuration and weights may be in subfolders. On the CPU, tensors that have ``dtype`` in the file stay
    memory-mapped. Quantised layers stay quantised and decode their weights in the forward pass.

    Raises:
        ValueError: ``path`` is not a Gemma, weights are missing or do not fit the configuration, or
            ``dtype`` is float16, in which the hidden states overflow.
    """
    # Refused before any weight is read.
    if dtype == torch.float16:
        raise ValueError("Gemma overflows in float16; use torch.bfloat16 or torch.float32")
    path = Path(path)
    config, infos, metadata = find_encoder(path)
    try:
        return _from_infos(config, infos, metadata, dtype, torch.device(device))
    except ValueError as error:
        raise ValueError(f"text encoder {path}: {error}") from error


def find_encoder(path: Path) -> tuple[ParsedJson, dict[str, TensorInfo], ParsedJson]:
    """Find the Gemma in the folder or file at ``path``, from headers only.

    Returns its configuration, the header entries of the language model's tensors by their name in that model,
    and the metadata of a single file's header (empty for a folder).

    Raises:
        ValueError: ``path`` does not contain a Gemma.
    """
    metadata: ParsedJson = {}
    source = path
    if path.is_file():
        config, infos, header = read_encoder_file(path)
        metadata = header.metadata
    else:
        source, config = find_config(path)
        infos = find_weights(path, source)
    try:
        return network_settings(config), infos, metadata
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def _from_infos(
    config: ParsedJson,
    infos: Mapping[str, TensorInfo],
    metadata: ParsedJson,
    dtype: torch.dtype,
    device: torch.device,
) -> Gemma:
    check_layers(config, infos)
    model = _empty(config)
    infos = _without_shared(infos, model)
    state = read_weights(model, infos, metadata, dtype, device)
    add_gguf_norms(state, infos, dtype, device)
    return _filled(model, state)


def _empty(config: ParsedJson) -> Any:
    """Build the transformers model for ``config`` on the ``meta`` device, without memory for weights."""
    # Importing transformers takes seconds, and users of the connectors alone do not need it.
    with without_broken_torchaudio():
        import transformers

        return _built(transformers, config)


def _built(transformers: Any, config: ParsedJson) -> Any:
    kind = str(config.get("model_type", "gemma3_text"))
    config_class, model_class = _CLASSES.get(kind, _CLASSES["gemma3_text"])
    if not hasattr(transformers, model_class):
        raise ValueError(
            f"a {kind} needs a newer release of transformers than {transformers.__version__}: "
            "pip install -U transformers"
        )
    fields = network_settings(config)
    fields = _portable(fields) if kind == "gemma3_text" else fields
    # On the meta device weights take no memory before those of the file are assigned.
    with torch.device("meta"):
        return getattr(transformers, model_class)(getattr(transformers, config_class).from_dict(fields))


_CLASSES: Mapping[str, tuple[str, str]] = {
    "gemma3_text": ("Gemma3TextConfig", "Gemma3TextModel"),
    "gemma4_text": ("Gemma4TextConfig", "Gemma4TextModel"),
    "gemma4_unified_text": ("Gemma4UnifiedTextConfig", "Gemma4UnifiedTextModel"),
}


def _without_shared(infos: Mapping[str, TensorInfo], model: Any) -> dict[str, TensorInfo]:
    """Leave out tensors that files hold and the network does not read.

    They belong to keys and values in layers of a Gemma 4 that use those of an earlier layer instead.
    """
    unread = tuple(f"{name}." for name in getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ())
    return {name: info for name, info in infos.items() if not name.startswith(unread)}


def _filled(model: Any, state: Mapping[str, Tensor]) -> Gemma:
    # Assigned and not copied, so that tensors of a file stay memory-mapped.
    model.load_state_dict(dict(state), strict=True, assign=True)
    _restore_constants(model)
    # The constants are created on the CPU; the weights may be elsewhere.
    model.to(state["embed_tokens.weight"].device)
    return Gemma(model.eval().requires_grad_(False))


def _portable(config: ParsedJson) -> ParsedJson:
    """A copy of ``config`` with rotary settings under older keys, which all versions of transformers read."""
    config = dict(config)
    rope = config.pop("rope_parameters", None)
    if rope:
        full = dict(rope["full_attention"])
        config["rope_theta"] = full.pop("rope_theta", 1e6)
        config["rope_local_base_freq"] = rope["sliding_attention"].get("rope_theta", 1e4)
        config["rope_scaling"] = None if full.get("rope_type", "default") == "default" else full
    return config


def _restore_constants(model: Any) -> None:
    """Compute constants that checkpoints do not store, in place: embedding scale and rotary frequencies."""
    # In float32: transformers casts it to the dtype of the weights when it is used.
    model.embed_tokens.embed_scale = torch.tensor(model.config.hidden_size**0.5)
    if width := getattr(model.config, "hidden_size_per_layer_input", None):
        model.embed_tokens_per_layer.embed_scale = torch.tensor(width**0.5)
    for name, module in list(model.named_children()):
        if name.startswith("rotary_emb"):
            setattr(model, name, type(module)(module.config))
