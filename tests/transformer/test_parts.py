"""Rotary embedding, modulation and norm."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ltx2_core.config import RopeConfig
from ltx2_core.transformer.adaln import sinusoid
from ltx2_core.transformer.layers import rms_norm
from ltx2_core.transformer.modality import attention_bias
from ltx2_core.transformer.modulation import Modulation, ShiftScaleGate
from ltx2_core.transformer.perturbations import sample_mask
from ltx2_core.transformer.rope import frequency_grid, rope_table, rotate
from ltx2_core.transformer.timesteps import Groups, group_timesteps


@pytest.mark.parametrize("rope_type", ["split", "interleaved"])
def test_rotation_preserves_lengths_and_depends_on_distance_only(rope_type):
    config = RopeConfig(theta=100.0, rope_type=rope_type)

    def scores(offset):
        points = torch.tensor([[[0.0, 3.0, 7.0]]]) + offset
        rope = rope_table(points, [16.0], width=32, heads=2, config=config)
        torch.manual_seed(0)
        q, k = torch.randn(1, 2, 3, 16), torch.randn(1, 2, 3, 16)
        assert torch.allclose(rotate(q, rope).norm(dim=-1), q.norm(dim=-1), atol=1e-5)
        return rotate(q, rope) @ rotate(k, rope).mT

    torch.testing.assert_close(scores(0.0), scores(5.0), rtol=0, atol=1e-3)


def test_channels_without_a_frequency_are_not_rotated():
    rope = rope_table(torch.rand(1, 3, 5), [1.0] * 3, width=64, heads=2, config=RopeConfig())
    unused = 64 // 2 - 3 * len(frequency_grid(RopeConfig(), 64, 3))
    assert unused == 2
    x = torch.randn(1, 2, 5, 32)
    assert torch.equal(rotate(x, rope)[:, 0, :, :unused], x[:, 0, :, :unused])
    assert not torch.equal(rotate(x, rope)[:, 1, :, :unused], x[:, 1, :, :unused])


def test_positions_of_the_wrong_number_of_axes_are_refused():
    with pytest.raises(ValueError, match="3 axes but max_pos has 1"):
        rope_table(torch.rand(1, 3, 5), [1.0], width=64, heads=2, config=RopeConfig())


def test_the_sinusoid_starts_with_the_cosine_of_the_timestep_itself():
    timesteps = torch.tensor([0.0, 1.5, 1000.0])
    values = sinusoid(timesteps)
    torch.testing.assert_close(values[:, 0], timesteps.cos())
    torch.testing.assert_close(values[:, 128], timesteps.sin())
    exact = 10000 ** (-torch.arange(128, dtype=torch.float64) / 128)
    torch.testing.assert_close(values[1, 128:].double(), (1.5 * exact).sin(), rtol=0, atol=1e-6)


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=2, max_size=40), st.booleans())
def test_grouping_timesteps_loses_none(values, mirror):
    timesteps = torch.tensor([values, values[::-1] if mirror else values])
    groups = group_timesteps(timesteps, len(values), timesteps.device)
    index = groups.index
    if groups.segments:
        assert [stop for _, stop in groups.segments[:-1]] == [start for start, _ in groups.segments[1:]]
        lengths = torch.tensor([stop - start for start, stop in groups.segments])
        index = index.T.repeat_interleave(lengths, dim=1)
    assert torch.equal(groups.timesteps[index], timesteps)
    assert len(groups.timesteps) == 2 * len(set(values))


def test_timesteps_that_change_often_are_looked_up():
    often = torch.arange(40.0)[None] % 2
    assert group_timesteps(often, 40, often.device).segments == ()
    seldom = (torch.arange(40.0)[None] >= 7).float()
    assert group_timesteps(seldom, 40, seldom.device).segments == ((0, 7), (7, 40))


@pytest.mark.parametrize("every", [1, 5, 20], ids=["token by token", "segments", "two segments"])
def test_groups_of_some_tokens_are_those_that_they_have_among_all(every):
    timesteps = (torch.arange(40) // every % 7 / 7)[None] * torch.tensor([[1.0], [0.5]])
    tokens = torch.tensor([3, 4, 11, 12, 30])
    some = group_timesteps(timesteps, 40, timesteps.device).of(tokens)
    found = torch.empty(2, len(tokens))
    for number, (start, stop) in enumerate(some.segments):
        found[:, start:stop] = some.timesteps[some.index[number]][:, None]
    assert some.segments
    assert torch.equal(found, timesteps[:, tokens])


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("kind", ["seldom", "often", "apart"])
def test_modulation_by_group_equals_modulation_by_token(in_place, grad, kind):
    torch.manual_seed(0)
    timesteps = (torch.tensor([[0, 0, 3, 3, 3, 2], [2, 2, 0, 0, 0, 1]]) / 4).repeat(
        1, 8 if kind == "often" else 1
    )
    count = timesteps.shape[1]
    groups = group_timesteps(timesteps, count, timesteps.device)
    assert bool(groups.segments) is (kind != "often")
    if kind == "apart":
        groups = Groups.apart(timesteps)
    values, x, table = torch.randn(3, 8), torch.randn(2, count, 8), torch.randn(4, 8)
    by_sample = torch.randn(1, 2, 8)
    by_group = torch.stack([values[p] * t for p in range(3) for t in groups.timesteps]).unflatten(0, (3, -1))
    with torch.set_grad_enabled(grad):
        modulation = Modulation.of(by_group, groups, 3, slice(1, 2)).and_samples(by_sample)
        *parameters, sample_gate = modulation.parameters(modulation.plus(table))
        m = ShiftScaleGate(modulation.layout, *parameters)
        by_sample_gate = ShiftScaleGate(modulation.layout, *parameters[:2], sample_gate)
        shift, scale, gate = (values[p] * timesteps[..., None] + table[p] for p in range(3))
        writes = in_place and not grad
        for start, stop in ((0, count),) if kind == "apart" else ((0, count), (1, 4), (3, count)):
            part = x[:, start:stop]
            x_part = part.clone()
            actual = m.modulate(x_part, start=start, in_place=writes)
            expected = part * (1 + scale[:, start:stop]) + shift[:, start:stop]
            torch.testing.assert_close(actual, expected)
            assert torch.equal(x_part, part) is not writes
            x_part = part.clone()
            actual = m.add(x_part, 2 * part, start=start, in_place=writes)
            torch.testing.assert_close(actual, part + 2 * part * gate[:, start:stop])
            actual = by_sample_gate.add(part.clone(), part, start=start)
            torch.testing.assert_close(actual, part + part * (by_sample[0, :, None] + table[3]))


def test_norm_statistics_are_float32():
    x = (torch.randn(4, 4096, dtype=torch.float64) * 3).bfloat16()
    exact = x.double() * (x.double().square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    assert torch.equal(rms_norm(x, 1e-6), exact.bfloat16())


def test_attention_weights_become_factors_on_the_softmax():
    bias = attention_bias(torch.tensor([[[1.0, 0.5, 0.0]]]), torch.float32)
    torch.testing.assert_close(bias.softmax(-1).flatten(), torch.tensor([2 / 3, 1 / 3, 0.0]))


def test_a_mask_of_samples_is_made_once_and_can_be_trained_through():
    with torch.inference_mode():
        mask = sample_mask((True, False), torch.float32, torch.device("cpu"))
    assert mask.tolist() == [[[1.0]], [[0.0]]]
    assert sample_mask((True, False), torch.float32, torch.device("cpu")) is mask
    x = torch.ones(2, 1, 1, requires_grad=True)
    (x * mask).sum().backward()
    assert torch.equal(x.grad, mask)
