"""Light that becomes codes, and codes that become light again."""

from __future__ import annotations

import math

import pytest
import torch

from ltx2_core.media.hdr_space import (
    HDR_SPACES,
    acescct_decode,
    acescct_encode,
    change_primaries,
    light_of,
    logc3_decode,
    logc3_encode,
)
from ltx2_core.media.hlg import WHITE_SIGNAL, hlg_signal, planes_of


@pytest.mark.parametrize(
    ("encode", "decode", "white"),
    [(logc3_encode, logc3_decode, 55.0), (acescct_encode, acescct_decode, 222.8)],
)
def test_a_curve_loses_no_light_up_to_the_brightest_that_it_holds(encode, decode, white):
    light = torch.cat((torch.zeros(1), torch.logspace(-5, math.log10(white), 400)))
    codes = encode(light)
    assert bool((codes.diff() > 0).all())
    torch.testing.assert_close(decode(codes), light, rtol=2e-5, atol=1e-6)
    assert encode(torch.tensor([1e6])).item() == 1
    assert encode(torch.tensor([-1.0])).item() == encode(torch.tensor([0.0])).item()


@pytest.mark.parametrize("name", HDR_SPACES)
def test_pixels_of_each_space_come_back_from_their_codes(name):
    space = HDR_SPACES[name]
    pixels = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    # ACEScct holds codes, the others light, which may be far above white.
    pixels = pixels if space.is_log else pixels * 40
    torch.testing.assert_close(space.of_codes(space.to_codes(pixels)), pixels, rtol=1e-4, atol=2e-4)


def test_grey_keeps_its_light_when_primaries_change():
    grey = torch.full((3, 2, 2), 3.0)
    torch.testing.assert_close(change_primaries(grey, "rec709", "acescg"), grey, rtol=1e-5, atol=0)


def test_white_of_an_hlg_master_has_the_signal_of_bt2408_and_highlights_stay_apart():
    light = torch.tensor([0.0, 1.0, 2.0, 4.0, 8.0]).view(5, 1, 1, 1).expand(5, 3, 2, 2)
    signal = hlg_signal(light)[:, 0, 0, 0]
    assert signal[0] == 0
    assert signal[1].item() == pytest.approx(WHITE_SIGNAL, abs=1e-5)
    assert (signal.diff() > 0).all()
    assert signal[-1] < 1


def test_grey_has_no_colour_in_the_planes_of_a_master():
    y, u, v = planes_of(torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, 3, 4, 6))
    assert y[:, 0, 0].tolist() == [64, 502, 940]
    assert y.shape == (3, 4, 6)
    assert set(u.flatten().tolist()) == set(v.flatten().tolist()) == {512}


@pytest.mark.parametrize("curve", ["acescct", "logc3"])
@pytest.mark.parametrize("name", HDR_SPACES)
def test_codes_of_each_curve_become_the_same_light_in_every_space(curve, name):
    light = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(1)) * 5
    codes = logc3_encode(light) if curve == "logc3" else HDR_SPACES["srgb-linear"].to_codes(light)
    found = light_of(codes, curve, HDR_SPACES[name])
    back = light_of(HDR_SPACES[name].to_codes(found), "acescct", HDR_SPACES["srgb-linear"])
    torch.testing.assert_close(back, light, rtol=1e-3, atol=1e-4)
