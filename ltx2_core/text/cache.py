"""Remembers the features of recent prompts.

Letters: B prompts, T tokens of the longest prompt, K feature width.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from ..types import TextFeatures

PROMPTS = 8
"""Kept by default; one of the full length of 1024 tokens takes 25 MB."""


class FeatureCache:
    """The features of the last prompts on the CPU, by text and by what encoded it."""

    def __init__(self, limit: int = PROMPTS) -> None:
        self.limit = limit
        self._held: OrderedDict[tuple[Hashable, str], tuple[Tensor, Tensor]] = OrderedDict()

    def encode(
        self, encoder: Hashable, prompts: Sequence[str], encode: Callable[[list[str]], TextFeatures]
    ) -> TextFeatures:
        """The features of ``prompts`` on the CPU; ``encode`` gets those that are not known, if there are any.

        ``encoder`` names what ``encode`` does: equal names must mean equal results.
        """
        unknown = [p for p in dict.fromkeys(prompts) if (encoder, p) not in self._held]
        if unknown:
            features = encode(unknown)
            for index, prompt in enumerate(unknown):
                valid = features.mask[index].bool()
                video = features.video[index][valid].cpu()
                same = features.audio is features.video
                audio = video if same else features.audio[index][valid].cpu()
                self._held[encoder, prompt] = (video, audio)
        rows = [self._held[encoder, prompt] for prompt in prompts]
        for prompt in prompts:
            self._held.move_to_end((encoder, prompt))
        while len(self._held) > self.limit:
            self._held.popitem(last=False)
        video, audio = (_padded([row[i] for row in rows]) for i in (0, 1))
        lengths = torch.tensor([len(row[0]) for row in rows])
        mask = (torch.arange(video.shape[1]) >= video.shape[1] - lengths[:, None]).long()
        return TextFeatures(video, audio, mask)


def _padded(rows: Sequence[Tensor]) -> Tensor:
    """Rows (T_b, K) -> (B, T, K) with zeros on the left of the shorter ones."""
    longest = max(map(len, rows))
    result = rows[0].new_zeros(len(rows), longest, rows[0].shape[-1])
    for index, row in enumerate(rows):
        result[index, longest - len(row) :] = row
    return result
