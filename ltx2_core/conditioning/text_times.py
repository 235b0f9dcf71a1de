"""Which text each token attends to, if the prompt of a clip changes with time.

Letters: B batch, A position axes, N tokens, S text tokens, K text width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ..transformer.timed_texts import TimedTexts

ROUNDING_S = 1e-4
"""Seconds by which a token may begin before a part and still belong to it: positions are float32."""


def timed_texts(
    whole: Tensor, parts: Sequence[tuple[float, Tensor]], fade_s: float, positions: Tensor
) -> TimedTexts:
    """Assign each token the text of its time, by its position and never by its index among the tokens.

    So tokens of guides, which follow those of the clip, belong to the part at their own frame and do not
    lengthen the clip. ``whole`` (B, S, K) is the text of tokens before second 0, such as those of reference
    audio. ``parts`` are (start in seconds, text) in rising order; a token belongs to the last part that has
    begun when the token begins. Within ``fade_s`` seconds around a start both texts are mixed, or within the
    length of a part that is shorter. ``positions`` (1 or B, A, N, 2) have the start and end of each token in
    seconds on their first axis.
    """
    starts = torch.tensor([start for start, _ in parts], dtype=torch.float64)
    times = positions[0, 0, :, 0].detach().cpu().double()
    part = torch.searchsorted(starts, times + ROUNDING_S, right=True).sub(1).clamp(min=0)
    first, second, share = part.clone(), part.clone(), torch.zeros(len(times), dtype=torch.float64)
    for number, fade in enumerate(_fades(starts.tolist(), fade_s), start=1):
        if fade <= 0:
            continue
        along = (times - float(starts[number])) / fade + 0.5
        inside = (along > 0) & (along < 1)
        first[inside], second[inside], share[inside] = number - 1, number, along[inside]
    # Parts of the same text share one tensor, so that its keys and values are computed once.
    contexts = {id(context): context for context in (*(context for _, context in parts), whole)}
    order = list(contexts)
    numbers = torch.tensor([order.index(id(context)) for _, context in parts])
    before = times < -ROUNDING_S
    first = torch.where(before, order.index(id(whole)), numbers[first])
    second = torch.where(before, first, numbers[second])
    share = torch.where(first == second, 0.0, share)
    return TimedTexts(contexts=tuple(contexts.values()), first=first, second=second, share=share.float())


def _fades(starts: Sequence[float], fade_s: float) -> list[float]:
    """Seconds of the fade around each start but the first, so that no token is in two fades."""
    lengths = [stop - start for start, stop in pairwise(starts)]
    return [min(fade_s, *lengths[index : index + 2]) for index in range(len(lengths))]
