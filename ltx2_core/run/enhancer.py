"""Loads the language model that enhances prompts: the text encoder itself, or a separate Gemma."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..memory import usable
from ..storage.quantized import loaded_bytes
from ..text import Gemma, Tokenizer, load_gemma, load_tokenizer
from ..text.enhance import SEED, Generation, conversation, enhanced
from ..text.gemma import find_encoder
from ..text.writer import check_writer, writer_of
from .components import Components


def check_enhancer(networks: Components, enhancer: str | os.PathLike[str] | None) -> Generation:
    """Check from headers that prompts can be enhanced; returns the generation, 3 or 4, of the Gemma for it.

    ``enhancer`` is the folder of an instruction-tuned Gemma; None is the text encoder of ``networks``. Raises
    ValueError if there is no text encoder, if it is that of LTX-2.5, which cannot write text, and if the
    folder has no Gemma, or no tokenizer with the special tokens of a conversation.
    """
    path = networks.text_encoder if enhancer is None else Path(enhancer)
    if path is None:
        raise ValueError(
            "no text encoder is named that could enhance the prompt: give text_encoder (--text-encoder), or "
            "an instruction-tuned Gemma with enhancer (--enhancer)"
        )
    config, _, _ = find_encoder(path)
    generation: Generation = 4 if "gemma4" in str(config.get("model_type", "")) else 3
    if enhancer is None:
        check_writer(generation, path)
    # This refuses the tokenizer of a text encoder that is no language model.
    load_tokenizer(path).conversation_ids(conversation("", generation))
    return generation


def enhance_prompt(
    networks: Components,
    enhancer: str | os.PathLike[str] | None,
    prompt: str,
    *,
    from_image: bool = False,
    seed: int = SEED,
    stop: Callable[[], bool] | None = None,
) -> str:
    """Rewrite ``prompt`` by a language model, which is loaded for this and freed afterwards.

    ``enhancer`` is as for :func:`check_enhancer`. ``from_image`` says that the clip begins with an image.
    ``seed`` decides answers that are drawn at random, those of Gemma 3. ``stop`` is called after each token;
    if it returns True, the answer ends there. Raises what :func:`check_enhancer` raises.
    """
    generation = check_enhancer(networks, enhancer)
    with _writer(networks, enhancer) as (gemma, tokenizer):
        write = writer_of(gemma, tokenizer, seed=seed, stop=stop)
        return enhanced(prompt, generation, write, from_image=from_image)


@contextmanager
def _writer(
    networks: Components, enhancer: str | os.PathLike[str] | None
) -> Iterator[tuple[Gemma, Tokenizer]]:
    """A context that yields (the language model, its tokenizer); the model is freed at the end.

    If it does not fit the memory budget, it runs on the CPU. None as ``enhancer`` is the text encoder.
    """
    if enhancer is None:
        with networks.use_text_encoder() as encoder:
            yield encoder.gemma, encoder.tokenizer
        return
    _, infos, _ = find_encoder(Path(enhancer))
    budget, device = networks.max_memory, networks.device
    if budget is not None and loaded_bytes(infos.values(), networks.dtype) > usable(budget):
        device = torch.device("cpu")
    with networks.clock.timed("load"):
        gemma = load_gemma(enhancer, dtype=networks.dtype, device=device)
    try:
        yield gemma, load_tokenizer(enhancer)
    finally:
        # The name would hold the weights while memory is released.
        del gemma
        networks.release()
