"""The latent upsamplers and their filters give what the official implementation gives."""

from __future__ import annotations

import re

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
    filtered = [re.fullmatch(r"(.+)\.(adain|tonemap)(\d+)(_per_frame)?", name) for name in tensors]
    if not any(filtered):
        pytest.skip("the fixture has no filtered case")
    for match in filter(None, filtered):
        case, what, digits, per_frame = match.groups()
        # "07" stands for 0.7, "1" for 1.
        amount = float(f"{digits[0]}.{digits[1:] or 0}")
        latent, upsampled, expected = (
            tensors[f"{case}.latent"],
            tensors[f"{case}.upsampled"],
            tensors[match[0]],
        )
        if what == "tonemap":
            torch.testing.assert_close(tone_map(upsampled, amount), expected, **TOLERANCE)
            continue
        actual = adain(upsampled, latent, factor=amount, per_frame=bool(per_frame))
        torch.testing.assert_close(actual, expected, **TOLERANCE)
        if not per_frame:
            filtered_in_one = upsample_latent(net, latent, statistics, adain=amount)
            torch.testing.assert_close(filtered_in_one, expected, **TOLERANCE)
