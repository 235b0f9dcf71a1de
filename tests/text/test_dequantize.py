"""Stored fp8, NVFP4 and int8 weights are decoded to their values."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from ltx2_core.storage.dequantize import E2M1, dequantize, untile_block_scales


def marker(kind: str) -> Tensor:
    return torch.tensor(list(json.dumps({"format": kind}).encode()), dtype=torch.uint8)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("scale", ["weight_scale", "scale_weight"])
def test_fp8_values_are_multiplied_with_their_scale(dtype, scale) -> None:
    weight = torch.tensor([[1.0, -2.0], [0.5, 4.0]])
    tensors = {"a.weight": weight.to(dtype), f"a.{scale}": torch.tensor(0.25)}
    assert torch.equal(dequantize("a", tensors), weight * 0.25)


def test_weights_without_scale_are_only_cast() -> None:
    for dtype in (torch.float8_e4m3fn, torch.bfloat16):
        result = dequantize("a", {"a.weight": torch.tensor([[1.5, -2.0]], dtype=dtype)})
        assert result.dtype == torch.float32
        assert result.tolist() == [[1.5, -2.0]]


def test_every_element_of_a_tiled_scale_sits_at_its_published_offset() -> None:
    rows, columns = 256, 8
    flat = torch.arange(rows * columns)
    logical = untile_block_scales(flat.reshape(rows, columns), rows, columns)
    for r, c in ((0, 0), (1, 0), (31, 3), (32, 0), (127, 7), (128, 4), (200, 5), (255, 7)):
        offset = (r // 128) * 128 * columns + (c // 4) * 512 + (r % 32) * 16 + ((r % 128) // 32) * 4 + c % 4
        assert logical[r, c] == offset
    assert sorted(logical.flatten().tolist()) == flat.tolist()


@pytest.mark.parametrize("scale_dtype", [torch.float8_e4m3fn, torch.uint8])
@pytest.mark.parametrize("marked", [True, False])
def test_nvfp4_reads_the_high_nibble_first_and_cuts_the_padding(scale_dtype, marked) -> None:
    codes = torch.arange(16).repeat(16, 2)
    tensors = {
        "a.weight": (codes[:, ::2] << 4 | codes[:, 1::2]).to(torch.uint8),
        "a.weight_scale": torch.full((128, 4), 2.0).to(torch.float8_e4m3fn).view(scale_dtype),
        "a.weight_scale_2": torch.tensor(0.5),
        **({"a.comfy_quant": marker("nvfp4")} if marked else {}),
    }
    expected = [*E2M1, *(-value for value in E2M1)] * 2
    whole = dequantize("a", tensors)
    assert whole.shape == (16, 32)
    assert whole[3].tolist() == expected
    assert dequantize("a", tensors, shape=(5, 30)).tolist() == [expected[:30]] * 5


def test_what_cannot_be_decoded_is_named() -> None:
    weight = torch.zeros(2, 16, dtype=torch.uint8)
    with pytest.raises(ValueError, match="a is quantised as 'int4'; supported are float8_e4m3fn"):
        dequantize("a", {"a.weight": weight, "a.comfy_quant": marker("int4")})
    with pytest.raises(ValueError, match=r"a\.weight_scale_2 is missing"):
        dequantize("a", {"a.weight": weight, "a.weight_scale": weight, "a.comfy_quant": marker("nvfp4")})
    with pytest.raises(ValueError, match="without a marker"):
        dequantize("a", {"a.weight": weight})
    with pytest.raises(ValueError, match="one scale per tensor"):
        dequantize("a", {"a.weight": weight.to(torch.float8_e4m3fn), "a.weight_scale": torch.ones(2)})
