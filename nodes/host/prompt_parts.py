"""Prompts by time in ComfyUI's CONDITIONING: further texts, each for a part of the clip.

Letters: B batch, S text tokens, K text width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import node_helpers
from torch import Tensor

from ...ltx2_core.conditioning.text_times import relayed_text, timed_texts
from ...ltx2_core.transformer import Modality
from ...ltx2_core.types import RelayedText
from .values import Clip, Conditioning

PARTS = "ltx2_prompt_parts"
"""Key of a CONDITIONING entry, and of an argument of the network, for its :class:`PromptParts`."""


@dataclass(frozen=True, eq=False)
class PromptParts:
    """The texts of the parts of a clip: (start in seconds, text (B, S, K)), the first at 0.

    In a CONDITIONING the texts are what the text encoder returned, and ``unprocessed`` says whether the
    connectors have still to run. For the network they are contexts of video and audio joined by width.
    With ``relay`` there are none: the text of the whole clip describes all parts.
    """

    parts: tuple[tuple[float, Tensor], ...]
    fade_s: float
    unprocessed: bool = False
    relay: RelayedText | None = None

    def encoded(self, connectors: Callable[[Tensor, bool], Tensor]) -> PromptParts:
        """A copy with every text processed by ``connectors(text, unprocessed)``, each text once."""
        texts = {id(text): text for _, text in self.parts}
        made = {key: connectors(text, self.unprocessed) for key, text in texts.items()}
        parts = tuple((start, made[id(text)]) for start, text in self.parts)
        return replace(self, parts=parts, unprocessed=False)


def with_parts(
    whole: Conditioning, parts: Sequence[tuple[float, Conditioning]], fade_s: float
) -> Conditioning:
    """A copy of ``whole``, the encoded prompt of the whole clip, with those of its parts.

    ``parts`` are (start in seconds, encoded prompt). Each has as many entries as ``whole``: a text encoder
    with hooks returns several, of which each is for a part of the schedule.
    """
    entries: Conditioning = []
    for number, (text, options) in enumerate(whole):
        held = PromptParts(
            tuple((start, part[number][0]) for start, part in parts),
            fade_s,
            options.get("unprocessed_ltxav_embeds", False),
        )
        entries += node_helpers.conditioning_set_values([[text, options]], {PARTS: held})
    return entries


def with_relay(whole: Conditioning, relay: RelayedText) -> Conditioning:
    """A copy of ``whole``, the encoded prompt, with the places at which it describes parts of the clip.

    Raises ValueError if the text encoder returned another number of tokens than ``relay`` ends with.
    """
    held = PromptParts((), 0.0, relay=relay)
    end = relay.parts[-1][2]
    for text, options in whole:
        # Other tokens than the text's would shift every part.
        if options.get("unprocessed_ltxav_embeds") and text.shape[1] != end:
            raise ValueError(
                f"this text encoder makes {text.shape[1]} tokens of a text of {end}, so that the parts "
                "cannot be found in it: use the method separate"
            )
    entries: Conditioning = node_helpers.conditioning_set_values(whole, {PARTS: held})
    return entries


def token_counts(clip: Clip, texts: Sequence[str]) -> list[int]:
    """The number of tokens of each text, with the one at its beginning and without padding."""
    batches = [next(iter(clip.tokenize(text).values())) for text in texts]
    # The host pads in front with tokens 0; entries that are no numbers are embeddings.
    return [sum(not (isinstance(t[0], int) and t[0] == 0) for row in rows for t in row) for rows in batches]


def has_parts(conditioning: Conditioning) -> bool:
    """Whether a CONDITIONING has prompts by time."""
    return any(options.get(PARTS) is not None for _, options in conditioning)


def timed(
    modality: Modality, parts: PromptParts | None, number: int, widths: Sequence[int], fps: float
) -> Modality:
    """``modality`` with the text of its time for each token; unchanged if ``parts`` is None.

    ``number`` is 0 for video and 1 for audio, ``widths`` are those of their texts, which ``parts`` has
    joined. ``fps`` is the frame rate of the clip.
    """
    if parts is None:
        return modality
    context = modality.context
    if parts.relay is not None:
        return replace(modality, timed=relayed_text(context, parts.relay, modality.positions, fps))
    split = {id(text): text.split(list(widths), dim=-1)[number].to(context) for _, text in parts.parts}
    own: list[tuple[float, Any]] = []
    for start, text in parts.parts:
        part = split[id(text)]
        # The host repeats the text of a call for its batch, and leaves this value as it is.
        own.append((start, part.repeat(len(context) // len(part), 1, 1)))
    return replace(modality, timed=timed_texts(context, own, parts.fade_s, modality.positions))
