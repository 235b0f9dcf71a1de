"""Normalisation and projection layer by layer equal the whole stack."""

from __future__ import annotations

import pytest
import torch
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ltx2_core.config import ConnectorConfig, TextConfig
from ltx2_core.text import FeatureExtractor

D, L = 6, 3


def config(per_token_norm: bool) -> TextConfig:
    return TextConfig(
        per_token_norm=per_token_norm,
        video=ConnectorConfig(heads=2, head_dim=5, num_layers=1),
        audio=ConnectorConfig(heads=2, head_dim=4 if per_token_norm else 5, num_layers=1),
    )


def left_mask(lengths: list[int], tokens: int) -> Tensor:
    return (torch.arange(tokens) >= tokens - torch.tensor(lengths).unsqueeze(1)).long()


def whole_stack(extractor: FeatureExtractor, stack: Tensor, mask: Tensor) -> list[Tensor]:
    """The published formula on the stack (B, T, D, L), prompt after prompt: rows of valid tokens."""
    results = []
    for x, valid in zip(stack.double(), mask.bool(), strict=True):
        x = x[valid]
        if extractor.per_token_norm:
            z = x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-6)
        else:
            mean = x.sum(dim=(0, 1)) / (x.shape[0] * D + 1e-6)
            z = 8 * (x - mean) / (x.amax(dim=(0, 1)) - x.amin(dim=(0, 1)) + 1e-6)
        flat = rearrange(z, "t d l -> t (d l)")
        for projection in extractor.projections:
            scale = (projection.weight.shape[0] / D) ** 0.5 if extractor.per_token_norm else 1.0
            bias = 0.0 if projection.bias is None else projection.bias.double()
            results.append(scale * flat @ projection.weight.double().T + bias)
    return results


@pytest.mark.parametrize("per_token_norm", [False, True])
@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=3), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_adding_layer_by_layer_equals_the_whole_stack(per_token_norm, lengths, seed) -> None:
    torch.manual_seed(seed)
    extractor = FeatureExtractor(config(per_token_norm), D, L)
    mask = left_mask(lengths, 5)
    stack = torch.randn(len(lengths), 5, D, L) * 4 + 1
    with torch.no_grad():
        features = extractor(stack.unbind(-1), mask)
        expected = whole_stack(extractor, stack, mask)
    kinds = (features.video, features.audio)[: len(extractor.projections)]
    actual = [kind[i][mask[i].bool()] for i in range(len(lengths)) for kind in kinds]
    for ours, reference in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours.double(), reference, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("per_token_norm", [False, True])
def test_padding_never_reaches_the_features(per_token_norm) -> None:
    extractor = FeatureExtractor(config(per_token_norm), D, L)
    mask = left_mask([2, 5], 5)
    stack = torch.randn(2, 5, D, L)
    poisoned = stack.masked_fill(~mask.bool()[..., None, None], float("nan"))
    with torch.no_grad():
        clean, dirty = extractor(stack.unbind(-1), mask), extractor(poisoned.unbind(-1), mask)
    assert torch.equal(clean.video, dirty.video)
    assert torch.equal(clean.audio, dirty.audio)
    assert dirty.video[0, :3].count_nonzero() == 0


def test_the_order_of_the_layers_does_not_matter_but_their_index_does() -> None:
    extractor = FeatureExtractor(config(True), D, L)
    mask = torch.ones(1, 4, dtype=torch.int64)
    states = torch.randn(L, 1, 4, D)

    def run(order: list[int], states: Tensor) -> Tensor:
        accumulator = extractor.accumulator(mask)
        for index in order:
            accumulator.add(index, states[index])
        return accumulator.result().video

    with torch.no_grad():
        torch.testing.assert_close(run([0, 1, 2], states), run([2, 0, 1], states))
        assert not torch.allclose(run([0, 1, 2], states), run([0, 1, 2], states.flip(0)))


def test_bfloat16_states_and_weights_still_give_float32_features() -> None:
    extractor = FeatureExtractor(config(True), D, L, dtype=torch.bfloat16)
    with torch.no_grad():
        features = extractor(torch.randn(L, 1, 4, D, dtype=torch.bfloat16), torch.ones(1, 4))
    assert features.video.dtype == features.audio.dtype == torch.float32


def test_a_projection_without_bias_has_the_scale_of_its_input() -> None:
    extractor = FeatureExtractor(config(True), D, L)
    mask, states = torch.ones(1, 4), torch.randn(L, 1, 4, D)
    accumulator = extractor.accumulator(mask, lambda projection, _: (projection.weight, None))
    with torch.no_grad():
        for projection in extractor.projections:
            projection.bias.zero_()
        for index, state in enumerate(states):
            accumulator.add(index, state)
        torch.testing.assert_close(accumulator.result().video, extractor(states, mask).video)


def test_a_missing_or_repeated_layer_is_an_error() -> None:
    accumulator = FeatureExtractor(config(False), D, L).accumulator(torch.ones(1, 4))
    accumulator.add(1, torch.randn(1, 4, D))
    with pytest.raises(ValueError, match="only 1 of 3"):
        accumulator.result()
    with pytest.raises(ValueError, match="hidden state 1"):
        accumulator.add(1, torch.randn(1, 4, D))
    with pytest.raises(ValueError, match="shape"):
        accumulator.add(0, torch.randn(1, 5, D))


def test_parameters_carry_the_released_names() -> None:
    names = {
        kind: set(FeatureExtractor(config(kind), D, L, device="meta").state_dict()) for kind in (False, True)
    }
    assert names[False] == {"aggregate_embed.weight"}
    assert names[True] == {f"{s}_aggregate_embed.{p}" for s in ("video", "audio") for p in ("weight", "bias")}
