"""Prompt enhancement: a language model rewrites a short prompt to a caption as LTX-2 was trained on.

It runs before a clip is sampled. Gemma 3, the text encoder of LTX-2.0 and 2.3, rewrites prompts itself; the
encoder of LTX-2.5 cannot write text, so that a separate instruction-tuned Gemma is needed.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from .instructions import INSTRUCTIONS
from .tokenizer import IMAGE_MARKERS

Generation = Literal[3, 4]
"""Generation of Gemma: 3 or 4."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class WritingRules:
    """How the tokens of an answer are chosen, as in the official pipelines.

    ``max_tokens`` is the largest length of the answer. With a ``temperature`` tokens are drawn at random;
    None always takes the most probable one. A sequence of ``no_repeat`` tokens never occurs twice; 0 allows
    that. ``attempt`` counts answers to one prompt from 0; each draws other tokens.
    """

    max_tokens: int
    temperature: float | None = None
    no_repeat: int = 0
    attempt: int = 0


RULES: Final[Mapping[int, WritingRules]] = {
    3: WritingRules(max_tokens=512, temperature=0.7),
    4: WritingRules(max_tokens=600, no_repeat=5),
}
"""Generation of Gemma -> how it writes."""

SEED: Final = 42
"""Seed of the official pipelines for answers that are drawn at random."""

_TURNS: Final[Mapping[int, str]] = {
    3: "<start_of_turn>user\n{system}\n\n{user}<end_of_turn>\n<start_of_turn>model\n",
    4: "<|turn>system\n{system}<turn|>\n<|turn>user\n{user}<turn|>\n<|turn>model\n<|channel>final\n",
}
ASCII: Final = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033", '"'),
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-"),
        **dict.fromkeys("\u00a0\u2007\u2009\u200a\u202f", " "),
        "\u2026": "...",
    }
)
"""Typographic quotation marks, dashes and spaces -> those of ASCII."""
_THOUGHT: Final = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)


def conversation(prompt: str, generation: Generation, *, from_image: bool = False, sees: bool = False) -> str:
    """The text that a Gemma continues with an enhanced version of ``prompt``: instructions, then the prompt.

    It contains the tokens that divide a conversation into turns, such as "<start_of_turn>". ``generation`` is
    that of the Gemma, 3 or 4; ``from_image`` says that the clip begins with an image. With ``sees`` the token
    that begins an image is before the prompt, for a language model that is given the image.
    """
    system = INSTRUCTIONS[generation, from_image]
    user = f"User Raw Input Prompt: {prompt}." if from_image else f"user prompt: {prompt}"
    user = f"{IMAGE_MARKERS[generation][0]}{user}" if sees else user
    return _TURNS[generation].format(system=system, user=user)


def cleaned(answer: str, prompt: str) -> str:
    """The enhanced prompt in an ``answer`` of the language model; ``prompt`` itself if nothing is left of it.

    Thoughts between "<think>" and "</think>" are removed, also where one of the two is missing, and all text
    before the first letter. Typographic quotation marks, dashes and spaces become those of ASCII.
    """
    text = _THOUGHT.sub("", answer).rpartition("</think>")[2].translate(ASCII)
    first = next((place for place, sign in enumerate(text) if sign.isalpha()), None)
    if first is None:
        log.warning("the language model wrote nothing: the prompt stays as it is")
        return prompt
    return text[first:].strip()


def enhanced(
    prompt: str,
    generation: Generation,
    write: Callable[[str, WritingRules], str],
    *,
    from_image: bool = False,
    sees: bool = False,
) -> str:
    """Return ``prompt`` as a Gemma rewrites it to a full caption.

    ``write(text, rules)`` returns the answer with which this Gemma continues the conversation ``text``.
    ``generation`` is that of the Gemma, 3 or 4; ``from_image`` says that the clip begins with an image, and
    ``sees`` that ``write`` gives it to the language model. Raises ValueError for an empty prompt.
    """
    text = question(prompt, generation, from_image=from_image, sees=sees)
    return cleaned(write(text, RULES[generation]), prompt)


def question(prompt: str, generation: Generation, *, from_image: bool, sees: bool) -> str:
    """The :func:`conversation` in which a Gemma is asked to rewrite ``prompt``.

    The log warns of an image that the language model does not see. Raises ValueError for an empty prompt.
    """
    if not prompt.strip():
        raise ValueError("there is no prompt to enhance: say in a few words what happens in the clip")
    if from_image and not sees:
        log.warning("the language model does not see the image: name in the prompt what it should know of it")
    return conversation(prompt.strip(), generation, from_image=from_image, sees=sees)
