"""The curves of HDR clips, and the planes of HLG masters, are those of the official pipelines."""

from __future__ import annotations

import pytest
import torch

from ltx2_core.media.hdr_space import (
    HDR_SPACES,
    acescct_decode,
    acescct_encode,
    logc3_decode,
    logc3_encode,
)
from ltx2_core.media.hlg import hlg_signal, planes_of

CURVES = {"logc3": (logc3_encode, logc3_decode), "acescct": (acescct_encode, acescct_decode)}


@pytest.mark.golden("numbers_ltx25")
@pytest.mark.parametrize("curve", CURVES)
def test_each_log_curve_is_that_of_the_reference_in_both_directions(golden, curve) -> None:
    tensors, (encode, decode) = golden.tensors(), CURVES[curve]
    pairs = (
        (encode(tensors[f"golden.{curve}.linear"]), tensors[f"golden.{curve}.code"]),
        (decode(tensors[f"golden.{curve}.decode_in"]), tensors[f"golden.{curve}.decode_out"]),
    )
    for ours, reference in pairs:
        torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-6)


@pytest.mark.golden("numbers_ltx25")
@pytest.mark.parametrize(("space", "name"), [("srgb-linear", "rec709"), ("acescg", "acescg")])
def test_linear_light_of_each_space_has_the_codes_of_the_reference(golden, space, name) -> None:
    tensors = golden.tensors()
    codes = HDR_SPACES[space].to_codes(tensors["golden.linear_rgb"])
    torch.testing.assert_close(codes, tensors[f"golden.acescct_from_{name}"], rtol=1e-5, atol=1e-6)


@pytest.mark.golden("numbers_ltx25")
def test_an_hlg_master_has_the_signal_and_the_planes_of_the_reference(golden) -> None:
    tensors = golden.tensors()
    signal = hlg_signal(tensors["golden.linear_rgb"])
    torch.testing.assert_close(signal, tensors["golden.hlg_signal"], rtol=1e-5, atol=1e-6)
    for ours, name in zip(planes_of(signal), "yuv", strict=True):
        assert (ours - tensors[f"golden.hlg_{name}"]).abs().max() <= 1
