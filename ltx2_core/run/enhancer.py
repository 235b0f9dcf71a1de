"""Loads the language model that enhances prompts: the text encoder itself, or a separate Gemma."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from ..memory import usable
from ..precision import usual_dtype
from ..storage.quantized import loaded_bytes
from ..text import Gemma, Tokenizer, load_gemma, load_tokenizer
from ..text.enhance import SEED, Generation, conversation, enhanced
from ..text.enhance_checks import Enhancement, checked
from ..text.enhance_drift import vectors_of
from ..text.gemma import find_encoder
from ..text.vision import VisionParts, find_vision, takes_images
from ..text.writer import VisionInput, check_writer, writer_of
from .components import Components
from .devices import default_device


def check_enhancer(networks: Components, enhancer: str | os.PathLike[str] | None) -> Generation:
    """Check from headers that prompts can be enhanced; returns the generation, 3 or 4, of the Gemma for it.

    ``enhancer`` is the folder or file of an instruction-tuned Gemma; None is the text encoder of
    ``networks``. Raises ValueError if there is no text encoder, if it is that of LTX-2.5, which cannot write
    text, and if there is no Gemma, or no tokenizer with the special tokens of a conversation.
    """
    path = networks.text_encoder if enhancer is None else Path(enhancer)
    if path is None:
        raise ValueError(
            "no text encoder is named that could enhance the prompt: give text_encoder (--text-encoder), or "
            "an instruction-tuned Gemma with enhancer (--enhancer)"
        )
    return _generation_of(path, text_encoder=enhancer is None)


def _generation_of(path: Path, *, text_encoder: bool = False) -> Generation:
    """The generation of the Gemma at ``path``, from headers; ValueError if it cannot write text.

    ``text_encoder`` says that it is that of a model of LTX-2, which in LTX-2.5 cannot.
    """
    config, _, _ = find_encoder(path)
    generation: Generation = 4 if "gemma4" in str(config.get("model_type", "")) else 3
    if text_encoder:
        check_writer(generation, path)
    # This refuses the tokenizer of a text encoder that is no language model.
    try:
        load_tokenizer(path).conversation_ids(conversation("", generation))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return generation


def enhance_prompt(
    networks: Components,
    enhancer: str | os.PathLike[str] | None,
    prompt: str,
    *,
    image: Tensor | None = None,
    from_image: bool = False,
    seed: int = SEED,
    stop: Callable[[], bool] | None = None,
    check: bool = True,
) -> Enhancement:
    """Rewrite ``prompt`` by a language model, which is loaded for this and freed afterwards.

    ``enhancer`` is as for :func:`check_enhancer`. ``image`` (1, 3, H, W) in [0, 1], H W pixel rows and
    columns, is the one that the clip begins with; a language model that takes no images is told of it in
    words, as with ``from_image`` alone.
    ``seed`` decides answers that are drawn at random, those of Gemma 3. ``stop`` is called after each token;
    if it returns True, the answer ends there. With ``check`` the result is ``prompt`` itself, with the
    reason, if the answer has a fault. Raises what :func:`check_enhancer` raises.
    """
    generation = check_enhancer(networks, enhancer)
    parts = None if image is None else vision_of(networks, enhancer, generation)
    vision = None if parts is None or image is None else VisionInput(parts=parts, image=image[0])
    first = from_image or image is not None
    with _writer(networks, enhancer) as (gemma, tokenizer):
        write = writer_of(gemma, tokenizer, seed=seed, stop=stop, vision=vision)
        if not check:
            text = enhanced(prompt, generation, write, from_image=first, sees=vision is not None)
            return Enhancement(prompt=text)
        vectors = vectors_of(gemma, tokenizer)
        return checked(prompt, generation, write, from_image=first, sees=vision is not None, vectors=vectors)


def enhance_alone(
    enhancer: str | os.PathLike[str],
    prompt: str,
    *,
    from_image: bool = False,
    seed: int = SEED,
    device: torch.device | str | None = None,
) -> Enhancement:
    """Rewrite ``prompt`` by the Gemma in the file or folder ``enhancer``, without any other model file.

    It computes on ``device``, None for a GPU if there is one, in the number format of
    :func:`~ltx2_core.precision.usual_dtype`; ``from_image`` and ``seed`` are as for :func:`enhance_prompt`.
    Raises ValueError for a Gemma that cannot write text.
    """
    generation = _generation_of(Path(enhancer))
    device = torch.device(device or default_device())
    gemma = load_gemma(enhancer, dtype=usual_dtype(device), device=device)
    tokenizer = load_tokenizer(enhancer)
    write = writer_of(gemma, tokenizer, seed=seed)
    return checked(prompt, generation, write, from_image=from_image, vectors=vectors_of(gemma, tokenizer))


def vision_of(
    networks: Components, enhancer: str | os.PathLike[str] | None, generation: Generation
) -> VisionParts | None:
    """The vision network of the language model that enhances prompts; None if it takes no images.

    Only headers are read. ``enhancer`` is as for :func:`check_enhancer`, ``generation`` what that returned.
    """
    path = networks.text_encoder if enhancer is None else Path(enhancer)
    assert path is not None
    parts = find_vision(path, generation)
    return parts if takes_images(parts, load_tokenizer(path)) else None


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
