"""Gemma and the checkpoint's text projection as a ComfyUI CLIP.

Its output is the same as that of ComfyUI's own text encoder, so that any LTX-2 MODEL can use it: features of
the valid tokens (those of video and audio concatenated if there are two projections), and a flag by which the
MODEL detects that its connectors have yet to run. Connectors are the small transformers between the text
projection and the video transformer.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any, cast

import comfy.model_management
import comfy.ops
import comfy.sd
import comfy.supported_models_base
import folder_paths
import torch
from torch import Tensor

from ...ltx2_core.loading.checkpoint import find_component, open_checkpoint
from ...ltx2_core.loading.detect import Component
from ...ltx2_core.loading.text_match import check_text_encoder
from ...ltx2_core.text import MAX_TOKENS, Gemma, TextEncoder, Tokenizer, load_gemma, load_tokenizer
from ...ltx2_core.text.cache import PROMPTS
from ...ltx2_core.text.features import FeatureExtractor
from .host_layers import use_host_layers
from .ltx_video import is_ltx_video, load_t5_clip
from .notices import say
from .patcher import Patcher
from .text_model import HostTextModel
from .text_tokens import NAMES, HostTokenizer, Token, Tokens
from .values import Options

GEMMA = "gemma3_12b.transformer."
"""How names of Gemma's tensors begin in the host's text encoder; files leave it out."""

CacheKey = tuple[object, tuple[Token, ...]]
"""The CLIP's set of weight patches and the tokens of a prompt."""


def load_clip(gemma: str | Path, *checkpoints: str | Path) -> comfy.sd.CLIP:
    """Load a text encoder (Gemma and the text projection, or the T5 of LTX-Video) as a ComfyUI CLIP.

    ``gemma`` is a folder or a file with Gemma; one of ``checkpoints`` holds the projection, or for LTX-2.5
    the Gemma file itself. Raises ValueError, before any weight is read, if a part is missing or Gemma does
    not fit the projection.
    """
    host = comfy.model_management
    path = Path(gemma)
    files = [open_checkpoint(checkpoint) for checkpoint in checkpoints]
    if is_ltx_video(files):
        check_text_encoder(files, path)
        return load_t5_clip(path)
    if path.is_file():
        # Last, so that the projection of a checkpoint is preferred to one in the encoder's own file.
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
    name, width = NAMES[gemma_model.generation], gemma_model.hidden_size
    stops = stop_tokens(gemma_model, tokenizer)
    target = comfy.supported_models_base.ClipTarget(
        lambda embedding_directory, **options: HostTokenizer(
            tokenizer, path, name, width, embedding_directory
        ),
        lambda **options: HostTextModel(encoder, dtype, name, stops),
    )
    embeddings = folder_paths.get_folder_paths("embeddings")
    clip = CachingCLIP(target, embedding_directory=embeddings, model_options={"dtype": dtype})
    # The host loads a second, independent text encoder by this where it needs one.
    clip.patcher.cached_patcher_init = (_clip_patcher, (str(gemma), *map(str, checkpoints)))
    return clip


class CachingCLIP(comfy.sd.CLIP):
    """A ComfyUI CLIP that caches the text features of the last encoded prompts.

    Clones, such as those with LoRAs, share the cache; an entry is reused only with the LoRAs with which it
    was encoded.
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
        row = tuple(token for row in tokens.get(self.tokenizer.clip_name, ()) for token, _ in row)
        self._say_what_is_ignored(len(row))
        # Hooks change weights between sampling steps, and other packs replace tokens by embeddings.
        plain = self.patcher.forced_hooks is None and self.apply_hooks_to_conds is None
        if not plain or not all(isinstance(token, int) for token in row):
            return super().encode_from_tokens(tokens, return_pooled, return_dict)
        # The host changes this id whenever weight patches are added.
        key = (self.patcher.patches_uuid, row)
        if key not in self.recent:
            # The fullest form is cached, from which the other two can be taken.
            self.recent[key] = super().encode_from_tokens(tokens, return_pooled=True, return_dict=True)
        self.recent.move_to_end(key)
        while len(self.recent) > PROMPTS:
            self.recent.popitem(last=False)
        encoded = self.recent[key]
        if return_dict:
            # A copy, because the host pops the embedding out of the dictionary that it gets.
            return dict(encoded)
        return (encoded["cond"], encoded["pooled_output"]) if return_pooled else encoded["cond"]

    def get_sd(self) -> dict[str, Tensor]:
        """All tensors of the text encoder, and its tokenizer as a tensor, named as in text encoder files."""
        return _names_of_files(super().get_sd())

    def state_dict_for_saving(self) -> dict[str, Tensor]:
        """The same tensors as :meth:`get_sd` returns, with LoRAs merged into them.

        Recent ComfyUI versions save a CLIP by this method, older ones by ``get_sd``.
        """
        return _names_of_files(super().state_dict_for_saving())

    def _say_what_is_ignored(self, length: int) -> None:
        if length > MAX_TOKENS:
            say(f"this prompt has {length} tokens and LTX-2 reads {MAX_TOKENS}: the rest is left out")
        if self.layer_idx is not None:
            say("CLIP Set Last Layer has no effect here: LTX-2 reads all layers of Gemma")


def stop_tokens(gemma: Gemma, tokenizer: Tokenizer) -> frozenset[int]:
    """The ids of tokens that end a generated answer: EOS, and the end of a turn."""
    stated = gemma.model.config.eos_token_id
    # Gemma's configuration may state EOS alone, while an answer of a chat ends with the mark of its turn.
    ends = {tokenizer.special[mark] for mark in ("<end_of_turn>", "<turn|>") if mark in tokenizer.special}
    return frozenset({*(stated if isinstance(stated, list) else [stated]), *ends})


def _names_of_files(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        # The network holds this scalar without an axis, files with one.
        name.removeprefix(GEMMA): tensor.reshape(-1) if name.endswith(".layer_scalar") else tensor
        for name, tensor in tensors.items()
    }


def _clip_patcher(gemma: str, *checkpoints: str, disable_dynamic: bool = False) -> Patcher:
    return load_clip(gemma, *checkpoints).patcher
