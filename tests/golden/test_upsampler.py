"""The latent upsamplers and their filters give what the official implementation gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ltx2_core.config import upsampler_config
from ltx2_core.latent_filters import adain, tone_map
from ltx2_core.upsampler import LatentUpsampler, upsample_latent
from ltx2_core.video_vae import PerChannelStatistics

TOLERANCE = {"atol": 1e-4, "rtol": 0}


def load(golden) -> tuple[LatentUpsampler, PerChannelStatistics, dict[str, Tensor]]:
    tensors = golden.tensors()
    net = LatentUpsampler(upsampler_config(golden.config), device="meta")
    weights = {name: t for name, t in tensors.items() if not name.startswith("golden.")}
    net.load_state_dict(weights, strict=True, assign=True)
    mean, std = tensors["golden.stats.mean"], tensors["golden.stats.std"]
    statistics = PerChannelStatistics(len(mean))
    statistics.load_state_dict({"mean-of-means": mean, "std-of-means": std})
    return net, statistics, tensors


@pytest.mark.golden("upsampler")
@torch.inference_mode()
def test_upsamples_like_the_reference(golden) -> None:
    net, statistics, tensors = load(golden)
    cases = [name.removesuffix(".latent") for name in tensors if name.endswith(".latent")]
    assert cases
    for case in cases:
        latent = tensors[f"{case}.latent"]
        raw = net(statistics.un_normalize(latent))
        torch.testing.assert_close(raw, tensors[f"{case}.raw_out"], **TOLERANCE)
        upsampled = upsample_latent(net, latent, statistics)
        torch.testing.assert_close(upsampled, tensors[f"{case}.upsampled"], **TOLERANCE)


@pytest.mark.golden("upsampler")
@torch.inference_mode()
def test_filters_like_the_reference(golden) -> None:
    net, statistics, tensors = load(golden)
    if "golden.a.adain07" not in tensors:
        pytest.skip("the fixture has no filtered case")
    latent, upsampled = tensors["golden.a.latent"], tensors["golden.a.upsampled"]
    wanted = tensors["golden.a.adain07"]
    torch.testing.assert_close(adain(upsampled, latent, factor=0.7), wanted, **TOLERANCE)
    torch.testing.assert_close(upsample_latent(net, latent, statistics, adain=0.7), wanted, **TOLERANCE)
    per_frame = adain(upsampled, latent, per_frame=True)
    torch.testing.assert_close(per_frame, tensors["golden.a.adain1_per_frame"], **TOLERANCE)
    torch.testing.assert_close(tone_map(upsampled, 0.5), tensors["golden.a.tonemap05"], **TOLERANCE)
