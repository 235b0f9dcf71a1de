"""Encoders and the fp8 product of quantised layers."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from ltx2_core import LTX2Pipeline
from ltx2_core.cli.main import main
from ltx2_core.storage import quantized as module
from ltx2_core.storage.dequantize import PACKED, Format, decode, untile_block_scales
from ltx2_core.storage.header import TensorInfo
from ltx2_core.storage.int8_product import supports_int8_matmul
from ltx2_core.storage.quantize import encode, tile_block_scales
from ltx2_core.storage.quantized import (
    QuantizedLinear,
    StoredLayer,
    check_matmul,
    supports_nvfp4_matmul,
)

ERRORS = {
    Format("float"): 0.04,
    Format("int8"): 0.02,
    Format("int8", 16): 0.01,
    Format("nvfp4"): 0.12,
    Format("mxfp8"): 0.04,
    Format("w4a4", 16): 0.15,
    Format("w4a8", 16): 0.12,
}


@pytest.mark.parametrize("form", ERRORS)
@pytest.mark.parametrize("shape", [(64, 64), (100, 48), (130, 192)])
def test_what_is_encoded_decodes_to_nearly_the_same_and_then_to_the_same(form, shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    once = decode("x", form, encode(form, weight), shape)
    assert (once - weight).norm() / weight.norm() < ERRORS[form]
    twice = decode("x", form, encode(form, once), shape)
    assert (twice - once).norm() / once.norm() < ERRORS[form] / 4 or form.kind in ("nvfp4", "int8", *PACKED)
    assert not decode("x", form, encode(form, torch.zeros(shape)), shape).any()


def test_tiling_is_undone_exactly():
    scales = torch.arange(130 * 7).float().reshape(130, 7)
    assert torch.equal(untile_block_scales(tile_block_scales(scales), 130, 7), scales)


def stored_linear(form, dtypes):
    """The state of a layer of 64 inputs and 32 outputs in ``form``, and how the header describes it."""
    torch.manual_seed(0)
    linear = nn.Linear(64, 32).bfloat16()
    tensors = encode(form, linear.weight.detach())
    infos = {
        s: TensorInfo(s, dtypes[s], tuple(t.shape), 0, t.nbytes, module.__file__) for s, t in tensors.items()
    }
    return linear, StoredLayer("x", form, infos), {**tensors, "bias": linear.bias.detach()}


def test_the_fp8_product_is_close_to_the_exact_one(monkeypatch):
    if not hasattr(torch, "_scaled_mm"):
        pytest.skip("this torch has no scaled product")
    linear, layer, state = stored_linear(Format("float"), {"weight": "F8_E4M3", "weight_scale": "F32"})
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
    assert result.shape == (2, 16, 32)
    assert result.dtype == torch.bfloat16
    assert 0 < (result - exact(x)).float().norm() / exact(x).float().norm() < 0.06


def test_nvfp4_layers_decode_exactly_where_the_device_has_no_product_of_them():
    names = {"weight": "U8", "weight_scale": "F8_E4M3", "weight_scale_2": "F32"}
    linear, layer, state = stored_linear(Format("nvfp4"), names)
    exact, fast = (QuantizedLinear(linear, layer, nvfp4_matmul=flag) for flag in (False, True))
    for quantised in (exact, fast):
        quantised.load_state_dict(state, strict=True, assign=True)
    x = torch.randn(2, 16, 64).bfloat16()
    assert not supports_nvfp4_matmul(x.device)
    assert torch.equal(fast(x), exact(x))


def capable(monkeypatch, capability):
    """As on a machine with a GPU of that compute capability."""
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    return torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("capability", "fp8", "nvfp4"), [((8, 0), False, False), ((9, 0), True, False), ((10, 0), True, True)]
)
def test_products_are_refused_by_name_where_the_gpu_is_too_old(capability, fp8, nvfp4, monkeypatch):
    device = capable(monkeypatch, capability)
    monkeypatch.setattr(torch, "float4_e2m1fn_x2", torch.uint8, raising=False)
    for option, supported in (("fp8_matmul", fp8), ("nvfp4_matmul", nvfp4)):
        options = {"fp8_matmul": False, "nvfp4_matmul": False, option: True}
        if supported:
            check_matmul(device, **options)
            continue
        with pytest.raises(ValueError, match=rf"{option} needs .*is cuda:0 of capability {capability[0]}\."):
            check_matmul(device, **options)


@pytest.mark.parametrize("option", ["fp8_matmul", "nvfp4_matmul"])
def test_a_pipeline_on_the_cpu_refuses_them_before_anything_is_loaded(option):
    with pytest.raises(ValueError, match=rf"{option} needs an NVIDIA GPU .*the device is cpu\. Leave"):
        LTX2Pipeline.embedded(device="cpu", **{option: True})
    result = CliRunner().invoke(
        main, ["generate", "--prompt", "x", "--device", "cpu", "--dry-run", f"--{option.replace('_', '-')}"]
    )
    assert result.exit_code == 2
    assert f"--{option.replace('_', '-')} needs an NVIDIA GPU" in result.output


INT8 = [
    # (format, shape of the input, whether it is multiplied as stored)
    (Format("int8"), (2, 16, 64), True),
    (Format("int8", 16), (2, 16, 64), True),
    (Format("int8", 16), (1, 64), True),
    (Format("int8", 64), (300, 64), True),
    (Format("int8", 16, full_precision=True), (2, 16, 64), False),
]


@pytest.mark.parametrize(("form", "shape", "stored"), INT8)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_int8_product_is_close_to_the_exact_one(form, shape, stored, dtype):
    linear, layer, state = stored_linear(form, {"weight": "I8", "weight_scale": "F32"})
    exact, fast = (QuantizedLinear(linear, layer, int8_matmul=flag) for flag in (False, True))
    for quantised in (exact, fast):
        quantised.load_state_dict(state, strict=True, assign=True)
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    result, expected = fast(x), exact(x)
    assert (result.shape, result.dtype) == (expected.shape, dtype)
    if not stored:
        assert torch.equal(result, expected)
        return
    assert 0 < (result - expected).float().norm() / expected.float().norm() < 0.01
    # Zeros have no scale of their own.
    assert torch.equal(fast(torch.zeros_like(x)), exact(torch.zeros_like(x)))


def test_rotated_int8_layers_bear_outliers_of_the_input():
    errors = {}
    for rotation in (0, 64):
        linear, layer, state = stored_linear(
            Format("int8", rotation), {"weight": "I8", "weight_scale": "F32"}
        )
        exact, fast = (QuantizedLinear(linear, layer, int8_matmul=flag) for flag in (False, True))
        for quantised in (exact, fast):
            quantised.load_state_dict(state, strict=True, assign=True)
        x = torch.randn(64, 64, generator=torch.Generator().manual_seed(2))
        x[:, 5] *= 40
        errors[rotation] = ((fast(x) - exact(x)).norm() / exact(x).norm()).item()
    assert errors[64] < 0.02
    assert errors[64] < errors[0]


@pytest.mark.parametrize(("capability", "supported"), [((7, 0), False), ((7, 5), True), ((9, 0), True)])
def test_int8_products_need_a_gpu_that_has_them(capability, supported, monkeypatch):
    device = capable(monkeypatch, capability)
    assert supports_int8_matmul(device) == supported
    if not supported:
        with pytest.raises(ValueError, match="int8_matmul needs a CPU or an NVIDIA GPU"):
            check_matmul(device, fp8_matmul=False, nvfp4_matmul=False, int8_matmul=True)
