"""Which text each token attends to, if the prompt of a clip changes with time.

Letters: B batch, A position axes, N tokens, S text tokens, K text width, P parts of the clip.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from ..shapes import TEMPORAL_SCALE
from ..transformer.timed_texts import PartBias, TimedTexts
from ..types import RelayedText

ROUNDING_S = 1e-4
"""Seconds by which a token may begin before a part and still belong to it: positions are float32."""
SPREAD = 1 / math.log(1000)
"""Standard deviation, in latent frames, of the Gaussian by which attention falls beside a part."""
LOWEST = -1e4
"""The lowest bias, as good as none in every number format."""


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


def relayed_text(context: Tensor, relay: RelayedText, positions: Tensor, fps: float) -> TimedTexts:
    """One text in which each token attends mostly to what describes its time, as Prompt Relay does.

    ``context`` (B, S, K) is the text and ``relay`` says which of its tokens describe which part of the clip.
    Attention to these has a bias of -d^2 / (2 ``SPREAD``^2), where d is by how many latent frames a token
    lies beside the part: 0 inside, -24 one latent frame away. All other text tokens have no bias. Times are
    those of ``positions`` (1 or B, A, N, 2), start and end of each token in seconds on the first axis, and
    never places among the tokens, so that guides do not move the parts. Tokens before second 0, such as those
    of reference audio, attend to no part. ``fps`` is the frame rate of the clip.

    A part lasts until the next one starts, the last one to the end, and the time of a token is its middle.
    With ``relay.seconds`` both are as in the pack WhatDreamsCost: the parts have whole latent frames, of
    which two at either side are left out, and the time of a token is its start.
    """
    seconds = positions[0, 0].detach().cpu().double()
    starts = [start for start, _, _ in relay.parts]
    if relay.seconds is None:
        times = _latent_times(seconds, fps).mean(dim=1)
        borders = _latent_times(torch.tensor(starts, dtype=torch.float64), fps).tolist()
        windows = list(pairwise((-math.inf, *borders[1:], math.inf)))
    else:
        frames = round((round(relay.seconds * fps) - 1) / TEMPORAL_SCALE) + 1
        # Audio has no pixel frames, so that its share of the clip counts.
        is_audio = positions.shape[1] == 1
        begins = seconds[:, 0]
        times = begins * frames / relay.seconds if is_audio else _latent_times(begins, fps)
        windows = narrow_windows([*starts, relay.seconds], frames)
    low, high = torch.tensor(windows, dtype=torch.float64).unbind(dim=1)
    beside = torch.maximum(low - times[:, None], times[:, None] - high).clamp(min=0)
    levels = (-(beside**2) / (2 * SPREAD**2)).clamp(min=LOWEST)
    levels[seconds[:, 0] < -ROUNDING_S] = LOWEST
    none = torch.zeros(len(times), dtype=torch.int64)
    bias = PartBias(levels.float(), tuple(slice(first, end) for _, first, end in relay.parts))
    return TimedTexts(contexts=(context,), first=none, second=none, share=none.float(), bias=bias)


def _latent_times(seconds: Tensor, fps: float) -> Tensor:
    """Seconds as latent frames, of which the first lasts one pixel frame and all others eight."""
    frames = seconds * fps
    return torch.where(frames < 1, frames, (frames - 1) / TEMPORAL_SCALE + 1)


def narrow_windows(borders: Sequence[float], frames: int) -> list[tuple[int, int]]:
    """For each part the first and the last latent frame without a bias in the pack WhatDreamsCost.

    ``borders`` are the starts of the parts in seconds and the end of the last one, ``frames`` the latent
    frames of the clip. Each part has a whole number of them, at least one, by the largest remainders.
    """
    shares = [(end - start) / borders[-1] * frames for start, end in pairwise(borders)]
    lengths = [max(1, int(share)) for share in shares]
    while (left := max(frames, len(shares)) - sum(lengths)) != 0:
        step = 1 if left > 0 else -1
        able = [number for number, length in enumerate(lengths) if length + step > 0]
        chosen = max(able, key=lambda number: step * (shares[number] - lengths[number]))
        lengths[chosen] += step
    windows = []
    for start, length in zip(accumulate(lengths, initial=0), lengths, strict=False):
        middle, half = (2 * start + length) // 2, max(length // 2 - 2, 0)
        windows.append((middle - half, middle + half))
    return windows
