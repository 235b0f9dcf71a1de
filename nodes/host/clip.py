"""Gemma and the checkpoint's text projection as the host's CLIP.

Its output is that of the host's own text encoder, which any MODEL of the family takes: features of the valid
tokens before the connectors (video and audio concatenated if there are two projections), and a flag for it.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any, cast

import comfy.model_management
import comfy.ops
import comfy.sd
import comfy.supported_models_base
import torch
from torch import Tensor, nn

from ...ltx2_core.loading.checkpoint import find_component, open_checkpoint
from ...ltx2_core.loading.detect import Component
from ...ltx2_core.loading.text_match import check_text_encoder
from ...ltx2_core.out_of_memory import attempt
from ...ltx2_core.text import TextEncoder, Tokenizer, load_gemma, load_tokenizer
from ...ltx2_core.text.cache import PROMPTS
from ...ltx2_core.text.features import FeatureExtractor
from .host_layers import use_host_layers
from .patcher import Patcher
from .progress import count_bar
from .values import Options

NAME = "gemma3"
Tokens = dict[str, list[list[tuple[int, float]]]]
CacheKey = tuple[object, tuple[int, ...]]
"""The CLIP's set of weight patches and the tokens of a prompt."""


def load_clip(gemma: str | Path, *checkpoints: str | Path) -> comfy.sd.CLIP:
    """A text encoder from Gemma, a folder or a file, and from files of which one holds the text projection.

    The encoder file of LTX-2.5 may hold the projection itself. Raises ValueError if either is incomplete or
    if they do not belong together, before any weight is read.
    """
    host = comfy.model_management
    path = Path(gemma)
    files = [open_checkpoint(checkpoint) for checkpoint in checkpoints]
    if path.is_file():
        files.append(open_checkpoint(path))
    projection = find_component(files, Component.TEXT_PROJECTION)
    # Headers suffice for this check, which spares the user a load of many GB.
    check_text_encoder(files, path)
    device = host.text_encoder_device()
    # The host prefers float16, whose range Gemma's hidden states exceed.
    dtype = torch.float32 if host.text_encoder_dtype(device) == torch.float32 else torch.bfloat16
    tokenizer = load_tokenizer(path)
    extractor = projection.load(Component.TEXT_PROJECTION, dtype=dtype, operations=comfy.ops.manual_cast)
    gemma_model = use_host_layers(load_gemma(path, dtype=dtype))
    encoder = TextEncoder(gemma_model, tokenizer, cast(FeatureExtractor, extractor))
    target = comfy.supported_models_base.ClipTarget(
        lambda **options: HostTokenizer(tokenizer), lambda **options: HostTextModel(encoder, dtype)
    )
    clip = CachingCLIP(target, model_options={"dtype": dtype})
    # The host loads a second, independent text encoder by this where it needs one.
    clip.patcher.cached_patcher_init = (_clip_patcher, (str(gemma), *map(str, checkpoints)))
    return clip


class CachingCLIP(comfy.sd.CLIP):
    """The host's CLIP with a cache of the last encoded prompts.

    Clones share the cache; the LoRAs of a clone are part of its keys.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.recent: OrderedDict[CacheKey, Options] = OrderedDict()

    def clone(self, **options: Any) -> comfy.sd.CLIP:
        copy = super().clone(**options)
        # The host's clone is made by its own class, whatever the class of the original.
        copy.__class__, copy.recent = type(self), self.recent
        return copy

    def encode_from_tokens(
        self, tokens: Tokens, return_pooled: bool | str = False, return_dict: bool = False
    ) -> Any:
        row = tuple(token for row in tokens.get(NAME, ()) for token, _ in row)
        # Hooks change weights between sampling steps, and other packs replace tokens by embeddings.
        plain = self.patcher.forced_hooks is None and self.apply_hooks_to_conds is None
        if not plain or not all(isinstance(token, int) for token in row):
            return super().encode_from_tokens(tokens, return_pooled, return_dict)
        # The host changes this id whenever weight patches are added.
        key = (self.patcher.patches_uuid, row)
        if key not in self.recent:
            self.recent[key] = super().encode_from_tokens(tokens, return_pooled=True, return_dict=True)
        self.recent.move_to_end(key)
        while len(self.recent) > PROMPTS:
            self.recent.popitem(last=False)
        encoded = self.recent[key]
        if return_dict:
            # A copy, because the host pops the embedding out of the dictionary that it gets.
            return dict(encoded)
        return (encoded["cond"], encoded["pooled_output"]) if return_pooled else encoded["cond"]


class HostTokenizer:
    """The tokenizer with the host's interface: lists of (token, weight), where every weight is 1."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **options: Any) -> Tokens:
        ids, _ = self.tokenizer([text])
        return {NAME: [[(token, 1.0) for token in ids[0].tolist()]]}

    def state_dict(self) -> dict[str, Tensor]:
        return {}


class HostTextModel(nn.Module):
    """The text encoder with the host's interface."""

    def __init__(self, encoder: TextEncoder, dtype: torch.dtype) -> None:
        super().__init__()
        self.gemma, self.extractor = encoder.gemma, encoder.extractor
        self.dtypes = {dtype}

    def set_clip_options(self, options: Options) -> None:
        self.gemma.model.execution_device = options.get("execution_device", self.gemma.model.execution_device)

    def reset_clip_options(self) -> None:
        self.gemma.model.execution_device = None

    def encode_token_weights(self, tokens: Tokens) -> tuple[Tensor, None, dict[str, bool]]:
        """Features (1, S, K) of the valid tokens, no pooled output, and the flag for the connectors."""
        return attempt("encoding the prompt", lambda: self._encoded(tokens))

    def _encoded(self, tokens: Tokens) -> tuple[Tensor, None, dict[str, bool]]:
        (row,) = tokens[NAME]
        ids = torch.tensor([[token for token, _ in row]])
        mask = torch.ones_like(ids)
        accumulator = self.extractor.accumulator(mask)
        on_count = count_bar(self.gemma.num_states)

        def consume(index: int, hidden: Tensor) -> None:
            accumulator.add(index, hidden)
            on_count(index + 1)

        self.gemma(ids, mask, consume)
        features = accumulator.result()
        parts = (features.video, features.audio) if self.extractor.per_token_norm else (features.video,)
        out = torch.cat(parts, dim=-1).to(comfy.model_management.intermediate_device())
        return out, None, {"unprocessed_ltxav_embeds": True}

    def load_sd(self, state_dict: dict[str, Tensor]) -> tuple[list[str], list[str]]:
        """Load nothing, because the weights are in place; the host calls it for files that it reads."""
        return [], list(state_dict)

    def memory_estimation_function(self, tokens: Tokens, device: torch.device | None = None) -> int:
        """Bytes of activations, estimated as 64 hidden states a token.

        Nodes that save or merge weights call it without tokens.
        """
        return sum(map(len, tokens.get(NAME, ()))) * self.gemma.hidden_size * 4 * 64


def _clip_patcher(gemma: str, *checkpoints: str, disable_dynamic: bool = False) -> Patcher:
    return load_clip(gemma, *checkpoints).patcher
