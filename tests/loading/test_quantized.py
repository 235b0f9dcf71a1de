"""Encoders and the fp8 product of quantised layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ltx2_core.storage import quantized as module
from ltx2_core.storage.dequantize import Format, decode, untile_block_scales
from ltx2_core.storage.header import TensorInfo
from ltx2_core.storage.quantize import encode, tile_block_scales
from ltx2_core.storage.quantized import QuantizedLinear, StoredLayer

ERRORS = {
    Format("float"): 0.04,
    Format("int8"): 0.02,
    Format("int8", 16): 0.01,
    Format("nvfp4"): 0.12,
    Format("mxfp8"): 0.04,
}


@pytest.mark.parametrize("form", ERRORS)
@pytest.mark.parametrize("shape", [(64, 64), (100, 48), (130, 192)])
def test_what_is_encoded_decodes_to_nearly_the_same_and_then_to_the_same(form, shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    once = decode("x", form, encode(form, weight), shape)
    assert (once - weight).norm() / weight.norm() < ERRORS[form]
    twice = decode("x", form, encode(form, once), shape)
    assert (twice - once).norm() / once.norm() < ERRORS[form] / 4 or form.kind in ("nvfp4", "int8")
    assert not decode("x", form, encode(form, torch.zeros(shape)), shape).any()


def test_tiling_is_undone_exactly():
    scales = torch.arange(130 * 7).float().reshape(130, 7)
    assert torch.equal(untile_block_scales(tile_block_scales(scales), 130, 7), scales)


def test_the_fp8_product_is_close_to_the_exact_one(monkeypatch):
    if not hasattr(torch, "_scaled_mm"):
        pytest.skip("this torch has no scaled product")
    torch.manual_seed(0)
    linear = nn.Linear(64, 32).bfloat16()
    tensors = encode(Format("float"), linear.weight.detach())
    dtypes = {"weight": "F8_E4M3", "weight_scale": "F32"}
    infos = {
        s: TensorInfo(s, dtypes[s], tuple(t.shape), 0, t.nbytes, module.__file__) for s, t in tensors.items()
    }
    layer = StoredLayer("x", Format("float"), infos)
    state = {**tensors, "bias": linear.bias.detach()}
    exact, fast = (QuantizedLinear(linear, layer, fp8_matmul=flag) for flag in (False, True))
    for quantised in (exact, fast):
        quantised.load_state_dict(state, strict=True, assign=True)
    x = torch.randn(2, 16, 64).bfloat16()
    assert torch.equal(fast(x), exact(x)), "the CPU takes the exact path"
    monkeypatch.setattr(module, "supports_fp8_matmul", lambda device: True)
    try:
        result = fast(x)
    except RuntimeError as error:
        pytest.skip(f"no scaled product here: {error}")
    assert result.shape == (2, 16, 32) and result.dtype == torch.bfloat16
    assert 0 < (result - exact(x)).float().norm() / exact(x).float().norm() < 0.06
