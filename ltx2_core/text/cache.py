"""Cache of the text features of recent prompts.

Letters: B prompts, T tokens of the longest prompt, K feature width.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from ..types import TextFeatures

PROMPTS = 8
"""Default number of cached prompts; a prompt of the full 1024 tokens takes 25 MB."""


class FeatureCache:
    """Holds the features of the last ``limit`` prompts on the CPU, by encoder and prompt."""

    def __init__(self, limit: int = PROMPTS) -> None:
        self.limit = limit
        self._held: OrderedDict[tuple[Hashable, str], tuple[Tensor, Tensor]] = OrderedDict()

    def encode(
        self, encoder: Hashable, prompts: Sequence[str], encode: Callable[[list[str]], TextFeatures]
    ) -> TextFeatures:
        """Features of ``prompts`` on the CPU; ``encode`` is called with the prompts that are not cached.

        ``encoder`` identifies the function ``encode``: the same key must always mean the same results.
        """
        # A prompt that occurs twice in a call is encoded once.
        missing = [p for p in dict.fromkeys(prompts) if (encoder, p) not in self._held]
        if missing:
            features = encode(missing)
            # Only valid tokens are stored, so that the padding of one call does not reach the next.
            for index, prompt in enumerate(missing):
                valid = features.mask[index].bool()
                # On the CPU, since cached features must not take the memory of the network.
                video = features.video[index][valid].cpu()
                same = features.audio is features.video
                audio = video if same else features.audio[index][valid].cpu()
                self._held[encoder, prompt] = (video, audio)
        pairs = [self._held[encoder, prompt] for prompt in prompts]
        for prompt in prompts:
            self._held.move_to_end((encoder, prompt))
        while len(self._held) > self.limit:
            self._held.popitem(last=False)
        video, audio = (_padded([pair[i] for pair in pairs]) for i in (0, 1))
        lengths = torch.tensor([len(pair[0]) for pair in pairs])
        mask = (torch.arange(video.shape[1]) >= video.shape[1] - lengths[:, None]).long()
        return TextFeatures(video, audio, mask)


def _padded(features: Sequence[Tensor]) -> Tensor:
    """Features of each prompt (T_b, K) -> (B, T, K); shorter prompts are padded with zeros on the left."""
    longest = max(map(len, features))
    result = features[0].new_zeros(len(features), longest, features[0].shape[-1])
    for index, one in enumerate(features):
        result[index, longest - len(one) :] = one
    return result
