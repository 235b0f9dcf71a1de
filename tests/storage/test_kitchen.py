"""Products of comfy-kitchen agree with the decoded weights, and take the layouts of stored weights."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from torch import nn

from ltx2_core.storage import kitchen, quantized
from ltx2_core.storage.dequantize import Format, decode
from ltx2_core.storage.header import TensorInfo
from ltx2_core.storage.int8_product import int8_product, round_int8
from ltx2_core.storage.quantize import encode
from ltx2_core.storage.quantized import QuantizedLinear, StoredLayer
from ltx2_core.transformer.products import products

needs_package = pytest.mark.skipif(
    find_spec("comfy_kitchen") is None, reason="comfy-kitchen is not installed"
)


def values(rows: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def apart(actual: torch.Tensor, expected: torch.Tensor) -> float:
    actual, expected = actual.detach().float(), expected.detach().float()
    return float((actual - expected).norm() / expected.norm())


@needs_package
@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_the_trial_passes_where_the_package_computes(kind):
    assert 0 < kitchen.trial(kind, torch.device("cpu")) < kitchen._ALLOWED[kind]


@needs_package
@pytest.mark.parametrize("rotation", [0, 16, 256, 1024])
@pytest.mark.parametrize("one_scale", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_the_trial_passes_for_every_kind_of_int8_layer(rotation, one_scale, bias):
    kind = kitchen.Int8(rotation, one_scale, bias)
    assert 0 < kitchen.trial("int8", torch.device("cpu"), kind) < kitchen._ALLOWED["int8"]


@needs_package
def test_a_rotation_that_cannot_be_computed_fails_its_trial():
    with pytest.raises(ValueError, match="only powers of 4"):
        kitchen.trial("int8", torch.device("cpu"), kitchen.Int8(rotation=32))


@pytest.mark.parametrize("rotation", [0, 16])
def test_a_layer_whose_kind_failed_is_multiplied_by_torch(monkeypatch, rotation):
    layer, x = layer_of(Format("int8", rotation), 1), values(20, 64, 2).bfloat16()
    expected, asked = layer(x), []

    def problem(kind, device, int8):
        asked.append(int8)
        return "failed"

    monkeypatch.setattr(quantized, "kitchen_problem", problem)
    assert torch.equal(layer(x), expected)
    assert set(asked) == {kitchen.Int8(rotation, one_scale=rotation == 0, bias=True)}


@needs_package
@pytest.mark.parametrize("rotation", [0, 64, 256])
@pytest.mark.parametrize("bias", [None, torch.arange(32.0)])
def test_int8_is_the_product_of_plain_torch(rotation, bias):
    x = values(20, 256, 0).bfloat16()
    stored = encode(Format("int8", rotation), values(32, 256, 1))
    weight, scale = stored["weight"], stored["weight_scale"]
    plain = int8_product(*round_int8(x, rotation), weight, scale)
    plain = plain if bias is None else plain + bias
    given = None if bias is None else bias.bfloat16()
    assert apart(kitchen.int8_linear(x, weight, scale, given, rotation), plain) < 0.01


@needs_package
@pytest.mark.parametrize("rows", [32, 20])
def test_inputs_are_rounded_to_the_layouts_of_stored_weights(rows):
    x = values(rows, 128, 0).bfloat16()
    for form, rounded, error in (
        (Format("nvfp4"), kitchen.round_nvfp4(x), 0.12),
        (Format("mxfp8"), kitchen.round_mxfp8(x), 0.04),
    ):
        padded = len(rounded["weight"])
        assert apart(decode("x", form, rounded, (padded, 128))[:rows], x) < error


def layer_of(form: Format, seed: int) -> QuantizedLinear:
    linear = nn.Linear(64, 32).bfloat16()
    tensors = encode(form, values(32, 64, seed))
    infos = {
        name: TensorInfo(name, "I8" if name == "weight" else "F32", tuple(t.shape), 0, t.nbytes, None)
        for name, t in tensors.items()
    }
    layer = QuantizedLinear(linear, StoredLayer("x", form, infos), int8_matmul=True)
    layer.load_state_dict({**tensors, "bias": linear.bias.detach()}, strict=True, assign=True)
    return layer


@needs_package
@pytest.mark.parametrize("rotation", [0, 16])
def test_a_layer_multiplies_by_the_package_where_it_can(monkeypatch, rotation):
    layer, x = layer_of(Format("int8", rotation), 1), values(40, 64, 2).bfloat16().view(2, 20, 64)
    ours = layer(x)
    monkeypatch.setattr(quantized, "kitchen_problem", lambda kind, device, int8: None)
    theirs = layer(x)
    assert theirs.shape == ours.shape
    assert theirs.dtype == ours.dtype
    assert 0 < apart(theirs, ours) < 0.01


def test_layers_of_one_input_round_it_once(monkeypatch):
    layers, x = [layer_of(Format("int8", 16), seed) for seed in range(3)], values(20, 64, 9)
    expected = [layer(x) for layer in layers]
    count = []
    monkeypatch.setattr(quantized, "round_int8", lambda *given: count.append(1) or round_int8(*given))
    assert all(map(torch.equal, products(x, *layers), expected))
    assert len(count) == 1


@pytest.mark.parametrize("kind", kitchen.PRODUCTS)
def test_other_devices_say_why_it_is_not_used(kind):
    assert "the device is cpu" in kitchen.kitchen_problem(kind, torch.device("cpu"))


@pytest.mark.parametrize("kind", kitchen.PRODUCTS)
def test_a_gpu_without_its_kernels_says_why(monkeypatch, kind):
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (12, 0))
    kitchen._problem.cache_clear()
    why = kitchen.kitchen_problem(kind, torch.device("cuda", 7))
    expected = "comfy-kitchen is not installed" if find_spec("comfy_kitchen") is None else "comfy-kitchen"
    kitchen._problem.cache_clear()
    assert expected in why
