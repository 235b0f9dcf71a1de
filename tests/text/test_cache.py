"""Repeated prompts are not encoded again and give the same features."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ltx2_core.text import FeatureCache
from ltx2_core.types import TextFeatures


class Encoder:
    """Gives each prompt one token a letter, left-padded, and records the prompts of every call."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def __call__(self, prompts: list[str]) -> TextFeatures:
        self.calls.append(prompts)
        longest = max(map(len, prompts))
        video, mask = torch.zeros(len(prompts), longest, 2), torch.zeros(len(prompts), longest).long()
        for row, prompt in enumerate(prompts):
            video[row, longest - len(prompt) :] = torch.tensor([[ord(c), row] for c in prompt]).float()
            mask[row, longest - len(prompt) :] = 1
        return TextFeatures(video, video + 1, mask)


def letters(features: TextFeatures) -> list[str]:
    def text(row: Tensor, mask: Tensor) -> str:
        return "".join(chr(int(v)) for v in row[mask.bool()][:, 0])

    return [text(row, mask) for row, mask in zip(features.video, features.mask, strict=True)]


def test_only_prompts_that_are_new_are_encoded_and_the_order_is_that_of_the_call() -> None:
    cache, encoder = FeatureCache(), Encoder()
    first = cache.encode("a", ["red", "blue ball"], encoder)
    again = cache.encode("a", ["blue ball", "red", "x", "red"], encoder)
    assert encoder.calls == [["red", "blue ball"], ["x"]]
    assert letters(again) == ["blue ball", "red", "x", "red"]
    assert torch.equal(again.video[0], first.video[1])
    assert torch.equal(again.audio[1], first.audio[0])
    assert again.video[1][~again.mask[1].bool()].count_nonzero() == 0


def test_another_encoder_encodes_the_same_text_again() -> None:
    cache, encoder = FeatureCache(), Encoder()
    cache.encode("a", ["red"], encoder)
    cache.encode("b", ["red"], encoder)
    assert len(encoder.calls) == 2


@pytest.mark.parametrize("limit", [1, 2])
def test_the_oldest_prompts_are_dropped_even_within_one_call(limit) -> None:
    cache, encoder = FeatureCache(limit), Encoder()
    assert letters(cache.encode("a", ["one", "two", "three"], encoder)) == ["one", "two", "three"]
    cache.encode("a", ["three"], encoder)
    assert len(encoder.calls) == 1
    cache.encode("a", ["one"], encoder)
    assert encoder.calls[1:] == [["one"]]
