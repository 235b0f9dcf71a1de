"""Attention with guides: the split bias gives what one mask of all tokens gives, and stays small."""

from __future__ import annotations

import pytest
import torch

from ltx2_core.attention import attention, attention_with_sums
from ltx2_core.transformer import GuideWeights, guided
from ltx2_core.transformer.guided import GuideBias, guided_attention, log_weights
from ltx2_core.transformer.joined import joined_attention

TOKENS = 40


def qkv() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, 3, TOKENS, 8, generator=generator) for _ in range(3))


GUIDES = [
    (torch.full((5,), 0.5),),
    (torch.full((5,), 0.5), torch.ones(7)),
    (torch.rand(12), torch.full((3,), 1.7), torch.zeros(2)),
    (torch.full((5,), 0.5), torch.full((3,), 0.5)),
]
every_weight = [
    pytest.mark.parametrize("free", [(), (False, True, False)], ids=["bound", "free"]),
    pytest.mark.parametrize("between", [0.0, 0.5, 1.0]),
    pytest.mark.parametrize("guides", GUIDES),
]


def of_every_weight(test):
    for mark in every_weight:
        test = mark(test)
    return test


@of_every_weight
def test_the_split_bias_is_the_dense_one(guides, between, free, monkeypatch):
    monkeypatch.setattr(guided, "QUERIES", 5)
    weights = GuideWeights(guides, between, free[: len(guides)])
    q, k, v = qkv()
    split = guided_attention(q, k, v, GuideBias.of(weights, torch.float32, None))
    dense = attention(q, k, v, log_weights(weights.dense(TOKENS), torch.float32).unsqueeze(1))
    torch.testing.assert_close(split, dense, atol=1e-6, rtol=1e-5)
    plain = attention(q, k, v)
    assert not torch.allclose(split, plain, atol=1e-3)


@of_every_weight
def test_calls_without_a_bias_joined_by_their_sums_are_the_dense_one(guides, between, free):
    weights = GuideWeights(guides, between, free[: len(guides)])
    q, k, v = qkv()
    groups = GuideBias.of(weights, torch.float32, None).groups
    with torch.inference_mode():
        joined = joined_attention(q, k, v, groups, weights.count, by=attention_with_sums)
    dense = attention(q, k, v, log_weights(weights.dense(TOKENS), torch.float32).unsqueeze(1))
    torch.testing.assert_close(joined, dense, atol=1e-6, rtol=1e-5)


def test_a_tile_without_a_guide_is_plain_attention():
    q, k, v = qkv()
    bias, plain = GuideBias.of(GuideWeights(()), torch.float32, None), attention(q, k, v)
    torch.testing.assert_close(guided_attention(q, k, v, bias), plain)
    with torch.inference_mode():
        joined = joined_attention(q, k, v, bias.groups, 0, by=attention_with_sums)
    torch.testing.assert_close(joined, plain)


def test_guides_of_one_weight_are_two_calls():
    one = GuideBias.of(GuideWeights((torch.full((5,), 0.5), torch.full((3,), 0.5))), torch.float32, None)
    assert len(one.groups) == 2
    other = GuideBias.of(GuideWeights((torch.full((5,), 0.5), torch.rand(3))), torch.float32, None)
    assert len(other.groups) == 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_by_token_are_as_exact_in_half_precision(dtype):
    """The logarithms of weights are not rounded to the number format of the keys."""
    q, k, v = (torch.zeros(1, 1, 8, 8) for _ in range(3))
    v[..., 4:, :] = 1
    weights = GuideWeights((torch.tensor([0.9, 0.3, 0.51, 0.123]),))
    groups = GuideBias.of(weights, dtype, None).groups

    def half(q, k, v, *, scale):
        # As on a GPU: the values of half precision, summed in float32.
        return attention_with_sums(q.float(), k.float(), v.float(), scale=scale)

    with torch.inference_mode():
        found = joined_attention(*(t.to(dtype) for t in (q, k, v)), groups, 4, by=half)
    total = weights.guides[0].sum()
    torch.testing.assert_close(found[0, 0, 0, 0], total / (total + 4), rtol=0, atol=1e-4)


def test_no_bias_has_a_row_for_every_token(monkeypatch):
    seen = []

    def look(q, k, v, bias=None):
        seen.append(bias.numel())
        return attention(q, k, v, bias)

    monkeypatch.setattr(guided, "attention", look)
    q, k, v = (torch.randn(1, 1, 2100, 4) for _ in range(3))
    weights = GuideWeights((torch.full((1000,), 0.5), torch.rand(600)))
    guided_attention(q, k, v, GuideBias.of(weights, torch.float32, None))
    assert max(seen) <= guided.QUERIES * 2100
    assert seen[:2] == [2100, 2100]


def test_weights_of_one_are_plain_attention():
    assert GuideWeights((torch.ones(3), torch.ones(2)), between=0.0).plain
    assert not GuideWeights((torch.ones(3), torch.tensor([1.0, 0.5]))).plain
