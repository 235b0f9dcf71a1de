"""Cache of the text features of recent prompts, for one or more text encoders.

Letters: B prompts, T tokens of the longest prompt, K feature width.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence

import torch

from ..types import TextFeatures
from .features import batched

PROMPTS = 8
"""Default number of cached prompts; a prompt of the full 1024 tokens takes 25 MB."""


class FeatureCache:
    """Holds the text features of the last ``limit`` prompts, on the CPU."""

    def __init__(self, limit: int = PROMPTS) -> None:
        self.limit = limit
        self._held: OrderedDict[tuple[Hashable, str], TextFeatures] = OrderedDict()

    def encode(
        self, encoder: Hashable, prompts: Sequence[str], encode: Callable[[list[str]], TextFeatures]
    ) -> TextFeatures:
        """Return the text features of ``prompts`` on the CPU, from the cache where possible.

        ``encode`` computes the features of prompts that are not cached. ``encoder`` is a key that identifies
        that function: for the same key, a prompt must always give the same features, whatever the other
        prompts of the call are.
        """
        # A prompt that occurs twice in a call is encoded once.
        missing = [p for p in dict.fromkeys(prompts) if (encoder, p) not in self._held]
        if missing:
            features = encode(missing)
            for index, prompt in enumerate(missing):
                self._held[encoder, prompt] = _of_prompt(features, index)
        result = batched([self._held[encoder, prompt] for prompt in prompts])
        for prompt in prompts:
            self._held.move_to_end((encoder, prompt))
        # After the result is made, so that a call with more prompts than the limit still finds all of them.
        while len(self._held) > self.limit:
            self._held.popitem(last=False)
        return result


def _of_prompt(features: TextFeatures, index: int) -> TextFeatures:
    """The features (1, T, K) of prompt number ``index``, from 0, of a batch, on the CPU and without padding.

    T tokens of width K. Padding is left out, because it depends on the other prompts of the batch.
    """
    valid = features.mask[index].bool()
    # On the CPU, since cached features must not take the memory of the network.
    video = features.video[index][valid][None].cpu()
    same = features.audio is features.video
    audio = video if same else features.audio[index][valid][None].cpu()
    return TextFeatures(video, audio, torch.ones(1, video.shape[1], dtype=torch.int64))
