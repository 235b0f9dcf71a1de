"""Attention with guides: the split bias gives what one mask of all tokens gives, and stays small."""

from __future__ import annotations

import pytest
import torch

from ltx2_core.attention import attention
from ltx2_core.transformer import GuideWeights, guided
from ltx2_core.transformer.guided import GuideBias, guided_attention, log_weights

TOKENS = 40


def qkv() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, 3, TOKENS, 8, generator=generator) for _ in range(3))


@pytest.mark.parametrize("free", [(), (False, True, False)], ids=["bound", "free"])
@pytest.mark.parametrize("between", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    "guides",
    [
        (torch.full((5,), 0.5),),
        (torch.full((5,), 0.5), torch.ones(7)),
        (torch.rand(12), torch.full((3,), 1.7), torch.zeros(2)),
    ],
)
def test_the_split_bias_is_the_dense_one(guides, between, free, monkeypatch):
    monkeypatch.setattr(guided, "QUERIES", 5)
    weights = GuideWeights(guides, between, free[: len(guides)])
    q, k, v = qkv()
    split = guided_attention(q, k, v, GuideBias.of(weights, torch.float32, None))
    dense = attention(q, k, v, log_weights(weights.dense(TOKENS), torch.float32).unsqueeze(1))
    torch.testing.assert_close(split, dense, atol=1e-6, rtol=1e-5)
    plain = attention(q, k, v)
    assert not torch.allclose(split, plain, atol=1e-3)


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
