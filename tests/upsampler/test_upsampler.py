"""Latent upsamplers: sizes, the released key tables, and the filters."""

from __future__ import annotations

from math import ceil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ltx2_core.config import UpsamplerConfig, upsampler_config
from ltx2_core.latent_filters import adain, tone_map
from ltx2_core.upsampler import LatentUpsampler, upsample_latent
from ltx2_core.video_vae import PerChannelStatistics

HEADER_BYTES = 40_000


def tiny(**options: object) -> LatentUpsampler:
    torch.manual_seed(0)
    config = UpsamplerConfig(in_channels=4, mid_channels=32, blocks_per_stage=1, **options)
    return LatentUpsampler(config).requires_grad_(False)


@pytest.mark.parametrize(
    ("config", "tensors", "file_bytes"),
    [
        ({"mid_channels": 1024, "spatial_scale": 2.0, "rational_resampler": True}, 73, 995_765_578),
        ({"mid_channels": 1024, "spatial_scale": 2.0, "rational_resampler": False}, 72, 995_743_560),
        ({"mid_channels": 1024, "spatial_scale": 1.5, "rational_resampler": True}, 73, 1_090_125_794),
        (
            {
                "mid_channels": 512,
                "spatial_upsample": False,
                "temporal_upsample": True,
                "spatial_scale": 1.0,
                "rational_resampler": True,
            },
            72,
            261_944_000,
        ),
    ],
)
def test_released_configurations_have_the_tensors_and_size_of_the_released_files(
    config: dict[str, object], tensors: int, file_bytes: int
) -> None:
    net = LatentUpsampler(upsampler_config(config), device="meta", dtype=torch.bfloat16)
    state = net.state_dict()
    assert len(state) == tensors
    assert 0 < file_bytes - sum(t.numel() * t.element_size() for t in state.values()) < HEADER_BYTES


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from([(0.75, True), (1.5, True), (2.0, True), (2.0, False), (4.0, True)]),
    st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)),
)
def test_spatial_upsampling_scales_the_grid_and_preserves_the_number_of_frames(
    kind: tuple[float, bool], grid: tuple[int, int, int]
) -> None:
    scale, rational = kind
    up = tiny(spatial_scale=scale, rational=rational)(torch.randn(2, 4, *grid))
    assert up.shape == (2, 4, grid[0], ceil(grid[1] * scale), ceil(grid[2] * scale))


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_temporal_upsampling_gives_a_frame_between_each_two(frames: int) -> None:
    z = torch.randn(1, 4, frames, 2, 3)
    assert tiny(spatial=False, temporal=True)(z).shape == (1, 4, 2 * frames - 1, 2, 3)
    assert tiny(spatial=True, temporal=True)(z).shape == (1, 4, 2 * frames - 1, 4, 6)


def test_a_scale_without_a_ratio_is_refused() -> None:
    with pytest.raises(ValueError, match=r"spatial_scale must be one of .*; got 3\.0"):
        tiny(spatial_scale=3.0, rational=True)


def test_the_net_gets_un_normalised_latents() -> None:
    net = tiny()
    statistics = PerChannelStatistics(4)
    mean, std = torch.randn(4), torch.rand(4) + 0.5
    statistics.load_state_dict({"mean-of-means": mean, "std-of-means": std})
    latent = torch.randn(1, 4, 2, 3, 3)
    mean, std = mean.view(4, 1, 1, 1), std.view(4, 1, 1, 1)
    torch.testing.assert_close(
        upsample_latent(net, latent, statistics), (net(latent * std + mean) - mean) / std
    )


@pytest.mark.parametrize("per_frame", [False, True])
def test_full_adain_gives_the_statistics_of_the_reference(per_frame: bool) -> None:
    x, reference = 3 * torch.randn(2, 4, 3, 6, 8) + 5, torch.randn(2, 4, 3, 3, 4)
    dims = (3, 4) if per_frame else (2, 3, 4)
    y = adain(x, reference, per_frame=per_frame)
    torch.testing.assert_close(y.mean(dims), reference.mean(dims))
    torch.testing.assert_close(y.std(dims), reference.std(dims))


def test_adain_by_a_factor_interpolates() -> None:
    x, reference = torch.randn(1, 4, 2, 3, 4), torch.randn(1, 4, 2, 3, 4)
    torch.testing.assert_close(adain(x, reference, factor=0.0), x)
    halfway = (x + adain(x, reference)) / 2
    torch.testing.assert_close(adain(x, reference, factor=0.5), halfway)


@pytest.mark.parametrize("value", [0.0, 0.1, -300.7])
def test_adain_moves_a_constant_channel_to_the_mean_of_the_reference(value: float) -> None:
    reference = torch.randn(1, 2, 3, 4, 4)
    for x in (torch.full((1, 2, 3, 4, 4), value), torch.full((1, 2, 1, 1, 1), value)):
        expected = reference.mean((2, 3, 4), keepdim=True).expand_as(x)
        torch.testing.assert_close(adain(x, reference), expected, atol=0.02, rtol=0)


def test_one_reference_frame_serves_every_frame_and_too_few_are_refused() -> None:
    x, reference = torch.randn(1, 2, 4, 3, 3), torch.randn(1, 2, 3, 3, 3)
    y = adain(x, reference[:, :, :1], per_frame=True)
    target = reference[:, :, :1].mean((3, 4)).expand(-1, -1, 4)
    torch.testing.assert_close(y.mean((3, 4)), target)
    with pytest.raises(ValueError, match="at least 4; got 3"):
        adain(x, reference, per_frame=True)


def test_tone_mapping_compresses_large_values_more_than_small_ones() -> None:
    x = torch.linspace(-8, 8, 33)
    assert torch.equal(tone_map(x, 0.0), x)
    ratio = tone_map(x, 1.0)[x != 0] / x[x != 0]
    size = x[x != 0].abs()
    assert (ratio[size > 4] < 0.45).all()
    assert (ratio[size < 1] > 0.65).all()
    with pytest.raises(ValueError, match=r"\[0, 1\]; got 1\.5"):
        tone_map(x, 1.5)
