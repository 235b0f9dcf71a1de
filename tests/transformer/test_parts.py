"""Rotary embedding, modulation and norm."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ltx2_core.config import RopeConfig
from ltx2_core.transformer.adaln import Modulation, group_timesteps, sinusoid
from ltx2_core.transformer.layers import rms_norm
from ltx2_core.transformer.modality import attention_bias
from ltx2_core.transformer.rope import frequency_grid, rope_table, rotate


@pytest.mark.parametrize("rope_type", ["split", "interleaved"])
def test_rotation_keeps_lengths_and_depends_on_distance_only(rope_type):
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


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=2, max_size=9))
def test_grouping_timesteps_loses_none(values):
    timesteps = torch.tensor([values, values[::-1]])
    groups, index = group_timesteps(timesteps)
    assert torch.equal(groups[index], timesteps)
    assert len(groups) == len(set(values))


def test_modulation_by_group_equals_modulation_by_token():
    torch.manual_seed(0)
    rows, table, x = torch.randn(3, 4, 8), torch.randn(3, 8), torch.randn(2, 5, 8)
    index = torch.tensor([[0, 1, 3, 3, 2], [2, 2, 0, 1, 0]])
    m = Modulation(rows, index).plus(table)
    shift, scale, gate = ((rows + table[:, None])[r][index] for r in range(3))
    torch.testing.assert_close(m.modulate(x, shift=0, scale=1), x * (1 + scale) + shift)
    torch.testing.assert_close(m.gate(x, 2 * x, row=2), x + 2 * x * gate)


def test_norm_statistics_are_float32():
    x = (torch.randn(4, 4096, dtype=torch.float64) * 3).bfloat16()
    exact = x.double() * (x.double().square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    assert torch.equal(rms_norm(x, 1e-6), exact.bfloat16())


def test_attention_weights_become_factors_on_the_softmax():
    bias = attention_bias(torch.tensor([[[1.0, 0.5, 0.0]]]), torch.float32)
    torch.testing.assert_close(bias.softmax(-1).flatten(), torch.tensor([2 / 3, 1 / 3, 0.0]))
