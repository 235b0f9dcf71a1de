"""Checks of enhanced prompts: whether what a language model wrote may replace the words of the user."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import Final

from .enhance import ASCII, RULES, Generation, WritingRules, cleaned, question
from .enhance_drift import Vectors, likeness, word_list
from .instructions import INSTRUCTIONS

log = logging.getLogger(__name__)

SHORTEST, LONGEST = 20, 350
"""Fewest and most words of a caption; those that LTX-2 was trained on have 150 to 220."""
LEAST_LIKE: Final = 0.4
"""Least likeness, from 0 to 1, of an enhanced prompt to the content words of the user's."""

_MARKUP: Final = re.compile(
    r"```|\*\*|^#+ |\\\(|\$\$|^\s*(here is|here's|sure[,!]|certainly[,!])", re.I | re.M
)
_QUOTED: Final = re.compile(r'"([^"]+)"')
_STOPS: Final = tuple(".!?\"')。！？」")
_REPEATED, _TIMES, _TOLD = 5, 3, 10
_FUNCTION_WORDS: Final = {
    "English": {"the", "and", "of", "with", "is", "as", "her", "his", "from", "to"},
    "German": {"der", "die", "das", "und", "ein", "eine", "mit", "ist", "auf", "den", "im"},
    "French": {"le", "les", "et", "un", "une", "dans", "avec", "est", "sur", "des", "elle"},
    "Spanish": {"el", "los", "las", "y", "una", "con", "es", "del", "por", "su"},
    "Italian": {"il", "gli", "di", "che", "della", "nel", "alla", "sono", "mentre", "una"},
}
"""Frequent words of languages that are written in Latin letters."""
_NUMBERS: Final = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True, kw_only=True)
class Enhancement:
    """The prompt to use: an enhanced one, or the user's own with the ``fault`` of what was written.

    ``fault`` is empty for an enhanced prompt. ``tries`` is how often the language model wrote.
    """

    prompt: str
    fault: str = ""
    tries: int = 1


def checked(
    prompt: str,
    generation: Generation,
    write: Callable[[str, WritingRules], str],
    *,
    from_image: bool = False,
    sees: bool = False,
    vectors: Vectors | None = None,
) -> Enhancement:
    """Have ``prompt`` rewritten as :func:`~.enhance.enhanced` does, and check the result.

    A language model that draws its words writes a second time, by rules whose ``attempt`` is 1, if the first
    answer has a fault. With a fault in the last answer the result is ``prompt`` itself, and the log warns of
    it. An answer that is cut off by its largest length ends within a sentence, which is a fault.
    ``vectors`` compares words by their meaning; without it they are compared by their stems. Raises
    ValueError for an empty prompt.
    """
    fault, tries = "", 2 if RULES[generation].temperature is not None else 1
    asked = question(prompt, generation, from_image=from_image, sees=sees)
    for attempt in range(tries):
        text = cleaned(write(asked, replace(RULES[generation], attempt=attempt)), prompt)
        fault = fault_of(text, prompt, vectors)
        if not fault:
            return Enhancement(prompt=text, tries=attempt + 1)
    log.warning("the prompt stays as it is: what the language model wrote %s", fault)
    return Enhancement(prompt=prompt, fault=fault, tries=tries)


def fault_of(text: str, prompt: str, vectors: Vectors | None = None) -> str:
    """Why ``text`` may not replace the user's ``prompt``, as the end of a sentence; "" if it may.

    It is faulty if it is empty, too short or too long, ends within a sentence, has markup or an introduction,
    mixes languages, repeats itself, its instructions or the prompt, lacks speech, numbers or names of the
    prompt, or is about something else (``vectors`` as for :func:`checked`).
    """
    # As the text is, so that quotes and apostrophes of both compare.
    prompt = prompt.translate(ASCII)
    checks: tuple[Callable[[], str], ...] = (
        lambda: _copied(text, prompt),
        lambda: _looped(text),
        lambda: _form(text),
        lambda: _language(text, prompt),
        lambda: _lost(text, prompt),
        lambda: _drifted(text, prompt, vectors),
    )
    if not any(map(str.isalpha, text)):
        return "is empty"
    return next(filter(None, (check() for check in checks)), "")


def _form(text: str) -> str:
    """Markup, length and end of a caption."""
    if _MARKUP.search(text):
        return "has markup or an introduction, which no caption has"
    visible = [sign for sign in text if not sign.isspace()]
    if sum(map(str.isalpha, visible)) < 0.7 * len(visible):
        return "has too few letters for a caption"
    if (words := len(word_list(text))) < SHORTEST:
        return f"has {words} words, and a caption at least {SHORTEST}"
    if words > LONGEST:
        return f"has {words} words, and a caption at most {LONGEST}"
    return "" if text.rstrip().endswith(_STOPS) else "ends within a sentence"


def _looped(text: str) -> str:
    """Sequences of words that occur again and again, and a text that is there twice."""
    words = word_list(text)
    runs = Counter(_runs(words, _REPEATED))
    if runs and (most := runs.most_common(1)[0])[1] >= _TIMES:
        return f"repeats itself: {' '.join(most[0])!r} is there {most[1]} times"
    half = len(words) // 2
    if half >= _REPEATED and _alike(words[:half], words[half:]) > 0.9:
        return "says everything twice"
    return ""


def _copied(text: str, prompt: str) -> str:
    """The prompt unchanged, or sentences of the instructions."""
    words = word_list(text)
    if _alike(words, word_list(prompt)) > 0.95:
        return "is the prompt itself"
    told = {run for one in INSTRUCTIONS.values() for run in _runs(word_list(one), _TOLD)}
    return "repeats its instructions" if told & {*_runs(words, _TOLD)} else ""


def _language(text: str, prompt: str) -> str:
    """Two languages, or another script than the prompt's. Speech in quotes may be in any language."""
    spoken = _QUOTED.sub(" ", text)
    scripts = Counter(unicodedata.name(sign, "?").split()[0] for sign in spoken if sign.isalpha())
    asked = Counter(unicodedata.name(sign, "?").split()[0] for sign in prompt if sign.isalpha())
    # Japanese is written in three scripts; captions are in English, whatever the prompt is in.
    others = sum(count for name, count in scripts.items() if name != "LATIN" and name not in asked)
    if others > 0.1 * scripts.total():
        return "is in another script than the prompt"
    if asked and "LATIN" in scripts and 0.1 < scripts["LATIN"] / scripts.total() < 0.9:
        return "mixes two languages"
    (_, first), (_, second) = _tongues(spoken).most_common(2)
    return "mixes two languages" if second >= 4 and second > 0.4 * first else ""


def _tongues(text: str) -> Counter[str]:
    """How many function words of each language a text has."""
    words = Counter(word_list(text))
    return Counter({name: sum(words[word] for word in known) for name, known in _FUNCTION_WORDS.items()})


def _is_english(prompt: str) -> bool:
    """Whether a prompt is in English, so that its own words occur in a caption, which is in English, too."""
    found = _tongues(prompt)
    return found["English"] >= max(found.values()) and all(
        sign < "\u0250" for sign in prompt if sign.isalpha()
    )


def _lost(text: str, prompt: str) -> str:
    """Speech, numbers and names of the prompt that are not in the text."""
    plain = " ".join(word_list(text))
    # The parts of words, too: "3-year-old" has the number 3, and "Anna's" the name Anna.
    words = {*re.findall(r"[^\W_]+", plain)}
    for speech in _QUOTED.findall(prompt):
        if " ".join(word_list(speech)) not in plain:
            return f'lacks the speech "{speech}"'
    for number in re.findall(r"(?<![\w.])\d+(?![\w.])", prompt):
        spelled = _NUMBERS[int(number)] if int(number) < len(_NUMBERS) else number
        if not words & {number, spelled}:
            return f"lacks the number {number}"
    if not _is_english(prompt):
        # German has capitals everywhere, and names of places are translated.
        return ""
    # A capital inside a sentence; words at its start are written so anyway.
    for name in re.findall(r"(?<=[a-z,] )[A-Z][a-z]+", _QUOTED.sub("", prompt)):
        if name.lower() not in words:
            return f"lacks the name {name}"
    return ""


def _drifted(text: str, prompt: str, vectors: Vectors | None) -> str:
    if not _is_english(prompt):
        # The caption is a translation, with which neither stems nor embeddings of words can be compared.
        return ""
    like = likeness(prompt, text, vectors)
    return "" if like >= LEAST_LIKE else f"is about something else: {like:.0%} of the prompt is in it"


def _runs(words: Sequence[str], length: int) -> list[tuple[str, ...]]:
    return [tuple(words[at : at + length]) for at in range(len(words) - length + 1)]


def _alike(one: Sequence[str], other: Sequence[str]) -> float:
    return SequenceMatcher(None, list(one), list(other), autojunk=False).ratio()
