"""T5 v1.1 XXL, the text encoder of LTX-Video: its last hidden states are the text for the transformer.

Letters: B prompts, S tokens, K hidden width.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..out_of_memory import attempt
from ..storage.files import ParsedJson, entries, indexed_files, read_object
from ..storage.header import TensorInfo, read_header
from ..storage.reading import decoded_shape
from ..torchaudio_import import without_broken_torchaudio
from ..types import TextFeatures
from .encoder import OnLayer
from .features import batched
from .settings import MAX_LAYERS
from .t5_tokenizer import T5Tokenizer, load_t5_tokenizer
from .weights import read_weights

MARK = "encoder.block.0.layer.1.DenseReluDense.wi_1.weight"
"""A tensor that every T5 v1.1 encoder has."""
T5_NAMES = "t5xxl_fp16 (or fp8_e4m3fn_scaled), or the Hugging Face folder of T5 v1.1 XXL"

_SHARED, _TIED = "shared.weight", "encoder.embed_tokens.weight"
_OWN = re.compile(r"^(?:shared|encoder)\..+")


class T5Encoder(nn.Module):
    """Encodes prompts by a T5 encoder of the transformers library and its tokenizer."""

    def __init__(self, model: Any, tokenizer: T5Tokenizer) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], *, on_layer: OnLayer | None = None) -> TextFeatures:
        """The hidden states of ``prompts`` (B, S, K) after the last norm, padded with zeros on the left.

        ``audio`` of the result is the same tensor, as the model has no audio. ``on_layer`` is called with the
        number of layers that are done and their total, over all prompts.
        """
        if isinstance(prompts, str) or not prompts:
            raise ValueError(f"prompts must be a list of at least one string; got {prompts!r}")
        blocks = len(self.model.encoder.block)
        total, done = blocks * len(prompts), 0

        def report(*_: Any) -> None:
            nonlocal done
            done += 1
            if on_layer is not None:
                on_layer(done, total)

        handles = [block.register_forward_hook(report) for block in self.model.encoder.block]
        try:
            # One by one, since a batch rounds differently from its rows.
            return batched([attempt("encoding the prompt", partial(self._one, p)) for p in prompts])
        finally:
            for handle in handles:
                handle.remove()

    def _one(self, prompt: str) -> TextFeatures:
        ids = torch.tensor([self.tokenizer(prompt)])
        states = self.states(ids, torch.ones_like(ids)).float()
        return TextFeatures(states, states, torch.ones_like(ids, device=states.device))

    def states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Hidden states (B, S, K) of token ids (B, S); ``mask`` (B, S) is 0 on padding."""
        where = self.model.shared.weight.device
        output = self.model(input_ids=ids.to(where), attention_mask=mask.to(where))
        states: Tensor = output.last_hidden_state
        return states


def is_t5(path: Path) -> bool:
    """Whether the file or folder ``path`` is a T5 v1.1 text encoder, by its tensors."""
    if path.is_file():
        return path.suffix == ".safetensors" and MARK in read_header(path).tensors
    return path.is_dir() and _config_folder(path) is not None and MARK in _folder_tensors(path)


def find_t5(path: Path) -> tuple[ParsedJson, dict[str, TensorInfo], ParsedJson]:
    """Find the T5 in the folder or file at ``path``, from headers only.

    Returns its settings (``model_type`` "t5"), the header entries of its tensors, and the metadata of a
    single file's header (empty for a folder). Raises ValueError if ``path`` is no T5 encoder.
    """
    metadata: ParsedJson = {}
    if path.is_file():
        header = read_header(path)
        found, metadata = dict(header.tensors), header.metadata
    else:
        found = _folder_tensors(path)
    infos = {name: info for name, info in found.items() if _OWN.match(name)}
    # Files hold the embedding under either name or under both.
    if _TIED in infos:
        infos.setdefault(_SHARED, infos.pop(_TIED))
        infos.pop(_TIED, None)
    try:
        return _settings(infos), infos, metadata
    except (LookupError, ZeroDivisionError, ValueError) as error:
        raise ValueError(f"{path} is no T5 text encoder, or an incomplete one: {error}") from None


def load_t5(
    path: str | os.PathLike[str], *, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> T5Encoder:
    """Load T5 and its tokenizer from a Hugging Face folder, or from a single file with one next to it.

    Quantised layers stay quantised, except those whose input T5 casts to the dtype of their weight. Raises
    ValueError if ``path`` is no T5 or has no tokenizer, or for float16, in which T5 overflows.
    """
    if dtype == torch.float16:
        raise ValueError("T5 overflows in float16; use torch.bfloat16 or torch.float32")
    path = Path(path)
    settings, infos, metadata = find_t5(path)
    tokenizer = load_t5_tokenizer(path)
    try:
        return T5Encoder(t5_network(settings, infos, metadata, dtype, torch.device(device)), tokenizer)
    except ValueError as error:
        raise ValueError(f"text encoder {path}: {error}") from error


def t5_network(
    settings: ParsedJson,
    infos: Mapping[str, TensorInfo],
    metadata: ParsedJson,
    dtype: torch.dtype,
    device: torch.device,
) -> Any:
    # Importing transformers takes seconds, and users of other encoders do not need T5.
    with without_broken_torchaudio():
        from transformers import T5Config, T5EncoderModel

    with torch.device("meta"):
        model = T5EncoderModel(T5Config(**dict(settings)))
    infos = {**infos, _TIED: infos[_SHARED]}
    state = read_weights(model, infos, metadata, dtype, device, decode=lambda name: name.endswith(".wo"))
    # One tensor, which would otherwise be on the device twice.
    state[_TIED] = state[_SHARED]
    model.load_state_dict(state, strict=True, assign=True)
    network: nn.Module = model
    return network.eval().requires_grad_(False)


def _settings(infos: Mapping[str, TensorInfo]) -> dict[str, Any]:
    """The configuration of a T5 v1.1 encoder from the shapes of its tensors."""
    shapes = {name: decoded_shape(info) for name, info in infos.items()}
    vocabulary, width = shapes[_SHARED]
    attention = "encoder.block.0.layer.0.SelfAttention."
    buckets, heads = shapes[f"{attention}relative_attention_bias.weight"]
    layers = {name.split(".")[2] for name in shapes if name.startswith("encoder.block.")}
    if len(layers) > MAX_LAYERS:
        raise ValueError(f"{len(layers)} layers are more than {MAX_LAYERS}")
    return {
        "model_type": "t5",
        "vocab_size": vocabulary,
        "d_model": width,
        "d_kv": shapes[f"{attention}q.weight"][0] // heads,
        "d_ff": shapes[MARK][0],
        "num_layers": len(layers),
        "num_heads": heads,
        "relative_attention_num_buckets": buckets,
        "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6,
        "feed_forward_proj": "gated-gelu",
        "dropout_rate": 0.0,
        "use_cache": False,
    }


def _config_folder(folder: Path) -> Path | None:
    """The folder, ``folder`` itself or one below, with the ``config.json`` of a T5; None without one."""
    for path in entries(folder):
        if path.name == "config.json":
            try:
                if read_object(path).get("model_type") in ("t5", "umt5"):
                    return path.parent
            except ValueError:
                continue
    return None


def _folder_tensors(folder: Path) -> dict[str, TensorInfo]:
    root = _config_folder(folder)
    if root is None:
        raise ValueError(f"{folder} has no config.json of a T5; use {T5_NAMES}")
    index = next((p for p in entries(root) if p.name.endswith(".safetensors.index.json")), None)
    files = (
        indexed_files(index) if index else [p for p in sorted(entries(root)) if p.suffix == ".safetensors"]
    )
    found: dict[str, TensorInfo] = {}
    for file in files:
        for name, info in read_header(file).tensors.items():
            found.setdefault(name, info)
    return found
