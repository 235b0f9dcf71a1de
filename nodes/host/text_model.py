"""Gemma and the text projection with ComfyUI's interfaces of a text encoder and of a language model."""

from __future__ import annotations

from inspect import signature
from typing import Any

import comfy.model_management
import comfy.text_encoders.llama
import torch
from torch import Tensor, nn

from ...ltx2_core.out_of_memory import attempt
from ...ltx2_core.text import MAX_TOKENS, Gemma, TextEncoder
from ...ltx2_core.text.features import FeatureExtractor
from .host_layers import ScaledEmbedding, weights_of
from .progress import count_bar
from .text_tokens import Token, Tokens
from .values import Options

Row = list[tuple[Token, float]]


class HostTextModel(nn.Module):
    """The text encoder (Gemma and text projection) with the methods and parameter names of ComfyUI's own.

    LoRAs and other packs find parameters by these names. ``name`` is the key of its tokens in ComfyUI's
    dicts, and ``stops`` are the ids of tokens that end a generated answer.
    """

    def __init__(self, encoder: TextEncoder, dtype: torch.dtype, name: str, stops: frozenset[int]) -> None:
        super().__init__()
        # The host uses this name for Gemma 4 too.
        self.gemma3_12b = _Branch(encoder.gemma)
        self.text_embedding_projection = encoder.extractor
        self.name, self.stops = name, stops
        self.dtypes = {dtype}

    @property
    def gemma(self) -> Gemma:
        return self.gemma3_12b.transformer

    @property
    def extractor(self) -> FeatureExtractor:
        return self.text_embedding_projection

    def set_clip_options(self, options: Options) -> None:
        self.gemma.model.execution_device = options.get("execution_device", self.gemma.model.execution_device)

    def reset_clip_options(self) -> None:
        self.gemma.model.execution_device = None

    def encode_token_weights(self, tokens: Tokens) -> tuple[Tensor, None, dict[str, bool]]:
        """Encode the first 1024 of ``tokens`` to features (1, tokens, width), before the text connectors.

        Returns them, None for a pooled output, and the flag by which ComfyUI detects that the connectors have
        not run.
        """
        return attempt("encoding the prompt", lambda: self._encoded(tokens))

    def _encoded(self, tokens: Tokens) -> tuple[Tensor, None, dict[str, bool]]:
        (row,) = tokens[self.name]
        # Cut here and not in the tokenizer, whose full list other packs count.
        row = row[:MAX_TOKENS]
        ids, mask = _ids(row), torch.ones(1, len(row), dtype=torch.int64)
        accumulator = self.extractor.accumulator(mask, fetch=weights_of)
        on_count = count_bar(self.gemma.num_states, "reading the prompt, layer")

        def consume(index: int, hidden: Tensor) -> None:
            accumulator.add(index, hidden)
            on_count(index + 1)

        embeds = None if all(isinstance(token, int) for token, _ in row) else self._embeds(row)
        self.gemma(ids, mask, consume, embeds=embeds)
        features = accumulator.result()
        parts = (features.video, features.audio) if self.extractor.per_token_norm else (features.video,)
        out = torch.cat(parts, dim=-1).to(comfy.model_management.intermediate_device())
        return out, None, {"unprocessed_ltxav_embeds": True}

    @torch.no_grad()
    def generate(
        self,
        tokens: Tokens,
        do_sample: bool,
        max_length: int,
        temperature: float,
        top_k: int,
        top_p: float,
        min_p: float,
        repetition_penalty: float,
        seed: int | None,
        presence_penalty: float = 0.0,
    ) -> list[int]:
        """Generate up to ``max_length`` token ids that follow ``tokens``, as ComfyUI's own Gemma does.

        Without ``do_sample`` each token is the most probable one; the other arguments are those with which
        ComfyUI's Gemma draws a token. Raises ValueError if the installed transformers is too old.
        """
        (row,) = tokens[self.name]
        model, device = self.gemma.model, self.gemma.model.device
        dtype = torch.bfloat16 if comfy.model_management.should_use_bf16(device) else torch.float32
        generator = torch.Generator(device=device).manual_seed(seed or 0) if do_sample else None
        draw: Any = comfy.text_encoders.llama.BaseGenerate.sample_token
        embeds, cache, on_count = (
            self._embeds(row).to(dtype),
            _cache(model.config),
            count_bar(max_length, "writing token"),
        )
        made: list[int] = []
        while len(made) < max_length:
            # After the first call only the new token is passed, since keys and values of all others are in
            # the cache.
            output = model(inputs_embeds=embeds, past_key_values=cache, use_cache=True)
            token = draw(
                self,
                self._scores(output.last_hidden_state[:, -1]),
                temperature,
                top_k,
                top_p,
                min_p,
                repetition_penalty,
                made,
                generator,
                do_sample=do_sample,
                presence_penalty=presence_penalty,
            )
            made.append(int(token[0]))
            on_count(len(made))
            if made[-1] in self.stops:
                break
            embeds = model.embed_tokens(token).to(dtype)
        return made

    def load_sd(self, state_dict: dict[str, Tensor]) -> tuple[list[str], list[str]]:
        """Load nothing, because the weights are loaded already; all names count as unexpected.

        ComfyUI calls this for weights that it reads itself. Returns (missing names, unexpected names).
        """
        return [], list(state_dict)

    def memory_estimation_function(self, tokens: Tokens, device: torch.device | None = None) -> int:
        """Estimate the bytes of activations for encoding ``tokens``: 64 float32 hidden states for each token.

        ``tokens`` may be empty, as from nodes that save or merge weights; the result is 0 then.
        """
        return sum(map(len, tokens.get(self.name, ()))) * self.gemma.hidden_size * 4 * 64

    def _embeds(self, row: Row) -> Tensor:
        """The embeddings (1, tokens, width) of ``row``, a list of (token, weight).

        Those of the vocabulary are multiplied by Gemma's constant. A token that is a textual-inversion
        embedding and not an id takes its place unmultiplied.
        """
        layer, device = self.gemma.model.embed_tokens, self.gemma.model.device
        assert isinstance(layer, ScaledEmbedding)
        embeds: Tensor = layer(_ids(row).to(device))
        for place, (token, _) in enumerate(row):
            if isinstance(token, Tensor):
                # Not scaled, as in the host: files hold what the first layer reads.
                embeds[0, place] = token.to(embeds)
        return embeds

    def _scores(self, hidden: Tensor) -> Tensor:
        """Compute the scores (1, vocabulary) of the next token from the last hidden state (1, width)."""
        model = self.gemma.model
        assert isinstance(model.embed_tokens, ScaledEmbedding)
        scores: Tensor = model.embed_tokens.logits(hidden)
        cap = getattr(model.config, "final_logit_softcapping", None)
        return torch.tanh(scores / cap) * cap if cap else scores


class _Branch(nn.Module):
    """A module around Gemma; it makes the parameter names as long as those of ComfyUI's own text encoder."""

    def __init__(self, transformer: Gemma) -> None:
        super().__init__()
        self.transformer = transformer


def _cache(config: Any) -> Any:
    """Make a cache for the keys and values of past tokens; its sliding-window layers drop old ones.

    ``config`` is that of the Gemma model. Raises ValueError if the installed transformers is too old.
    """
    import transformers

    # Older caches have a fixed length, or do not support sliding windows.
    if "config" not in signature(transformers.DynamicCache.__init__).parameters:
        raise ValueError(
            f"writing text with Gemma needs a newer release of transformers than {transformers.__version__}: "
            "pip install -U transformers"
        )
    return transformers.DynamicCache(config=config)


def _ids(row: Row) -> Tensor:
    """Token ids (1, tokens) of ``row``, a list of (token, weight).

    A token that is a textual-inversion embedding and not an id gets the id 0, which is not read.
    """
    return torch.tensor([[token if isinstance(token, int) else 0 for token, _ in row]])
