"""Gemma as a language model that continues a conversation, by the generation loop of transformers."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from ..torchaudio_import import without_broken_torchaudio
from .enhance import SEED, WritingRules
from .folder import CLASSES
from .gemma import Gemma
from .tokenizer import IMAGE_MARKERS, Tokenizer
from .vision import VisionParts, image_inputs, with_soft_tokens, with_vision

MULTIPLE: Final = 8
"""Conversations are padded on the left to a multiple of so many tokens, as in the official pipelines."""


@dataclass(frozen=True, kw_only=True)
class VisionInput:
    """An image for a language model: ``image`` (3, H, W) in [0, 1], H W pixel rows and columns.

    ``parts`` is the vision network of this language model.
    """

    parts: VisionParts
    image: Tensor

    @property
    def kinds_name(self) -> str:
        """The argument of transformers that marks which tokens are those of an image."""
        return "token_type_ids" if self.parts.generation == 3 else "mm_token_type_ids"


@torch.inference_mode()
def write_text(
    gemma: Gemma,
    tokenizer: Tokenizer,
    text: str,
    rules: WritingRules,
    *,
    seed: int = SEED,
    stop: Callable[[], bool] | None = None,
    vision: VisionInput | None = None,
) -> str:
    """Continue the conversation ``text`` and return the answer alone.

    ``text`` contains tokens that divide it into turns, such as "<start_of_turn>"; the answer ends where its
    turn does. ``rules`` say how tokens are chosen; ``seed`` and the attempt seed those that are drawn at
    random. The random state of torch is left as it was. ``stop`` is called after each token; if it returns
    True, the answer ends there. ``vision`` is an image that the language model is given, at the token in
    ``text`` that begins an image; None without one. Raises ValueError if the tokenizer lacks the tokens for
    turns, as that of a text encoder which cannot write does.
    """
    seen: dict[str, Tensor] = {}
    if vision is not None:
        seen, count = image_inputs(vision.parts, vision.image)
        text = with_soft_tokens(text, vision.parts.generation, count)
    ids = tokenizer.conversation_ids(text)
    padding = -len(ids) % MULTIPLE
    device = gemma.model.device
    tokens = torch.tensor([[tokenizer.pad_id] * padding + ids], device=device)
    mask = torch.ones_like(tokens)
    mask[:, :padding] = 0
    model = _with_head(gemma) if vision is None else with_vision(gemma, vision.parts, tokenizer)
    devices = [] if device.type == "cpu" else [device]
    if vision is not None:
        seen = {name: tensor.to(device) for name, tensor in seen.items()}
        # Tokens of an image attend to each other in both directions, which this marks.
        kinds, soft = vision.kinds_name, tokenizer.special[IMAGE_MARKERS[vision.parts.generation][1]]
        seen[kinds] = (tokens == soft).long()
    with torch.random.fork_rng(devices):
        torch.manual_seed((seed + rules.attempt) % 2**64)
        made = model.generate(
            tokens,
            attention_mask=mask,
            **seen,
            generation_config=_configuration(rules, tokenizer),
            stopping_criteria=[] if stop is None else [_Stop(stop)],
        )
    assert tokenizer.decode is not None
    marks = {*tokenizer.special.values()}
    return tokenizer.decode([token for token in made[0, tokens.shape[1] :].tolist() if token not in marks])


def writer_of(
    gemma: Gemma,
    tokenizer: Tokenizer,
    *,
    seed: int = SEED,
    stop: Callable[[], bool] | None = None,
    vision: VisionInput | None = None,
) -> Callable[[str, WritingRules], str]:
    """Make the argument ``write`` of :func:`~.enhance.enhanced`: a function by which ``gemma`` answers.

    ``seed``, ``stop`` and ``vision`` are those of :func:`write_text`.
    """
    return lambda text, rules: write_text(gemma, tokenizer, text, rules, seed=seed, stop=stop, vision=vision)


class _Stop:
    """A stopping criterion of transformers that calls a function, which says whether to end the answer."""

    def __init__(self, stop: Callable[[], bool]) -> None:
        self.stop = stop

    def __call__(self, input_ids: Tensor, *_: Any, **__: Any) -> Tensor:
        return torch.full((len(input_ids),), self.stop(), device=input_ids.device)


def _configuration(rules: WritingRules, tokenizer: Tokenizer) -> Any:
    from transformers import GenerationConfig

    drawn = rules.temperature is not None
    ends = [tokenizer.eos_id, *(tokenizer.special[name] for name in tokenizer.ends)]
    return GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=rules.max_tokens,
        do_sample=drawn,
        # The defaults of transformers would also cut the least probable tokens.
        **({"temperature": rules.temperature, "top_k": 0, "top_p": 1.0} if drawn else {}),
        no_repeat_ngram_size=rules.no_repeat,
        pad_token_id=tokenizer.pad_id,
        bos_token_id=tokenizer.bos_id,
        eos_token_id=[end for end in ends if end is not None],
    )


def _with_head(gemma: Gemma) -> Any:
    """The text model of ``gemma`` with the head that predicts tokens, as a model of transformers.

    The head's weight is the embedding matrix; no tensor is copied.
    """
    with without_broken_torchaudio():
        import transformers
    config = gemma.model.config
    with torch.device("meta"):
        model = getattr(transformers, CLASSES[config.model_type])(config)
    model.model = gemma.model
    model.lm_head.weight = gemma.model.embed_tokens.weight
    return model.eval()


def check_writer(generation: int, path: str | os.PathLike[str]) -> None:
    """Raise ValueError if the text encoder at ``path``, a Gemma of ``generation``, cannot write text.

    That of LTX-2.5, generation 4, cannot.
    """
    if generation == 4:
        raise ValueError(
            f"the text encoder {os.fspath(path)} of LTX-2.5 cannot write text: name an instruction-tuned "
            "Gemma with enhancer (--enhancer FOLDER), such as gemma-4-E2B-it"
        )
