"""Products in fp8: rounded by rows, the exact product of what was rounded, and only where they belong."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from ltx2_core.memory import BlockStreaming
from ltx2_core.storage.dequantize import Format
from ltx2_core.storage.header import TensorInfo
from ltx2_core.storage.quantize import FP8_ERROR, FP8_STEP, quantize_fp8
from ltx2_core.storage.quantized import QuantizedLinear, StoredLayer
from ltx2_core.transformer.fp8 import (
    Fp8Linear,
    exact_product,
    fp8_problem,
    kernel_product,
    quantize_rows,
    use_fp8,
)

KERNEL = fp8_problem(torch.device("cuda"), torch.bfloat16) if torch.cuda.is_available() else "no CUDA device"


def clip(config, streams):
    return [make(config) for make in streams]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_keep_their_largest_value_and_lose_a_sixteenth_at_most(dtype):
    x = (torch.randn(7, 48) * torch.logspace(-4, 4, 7)[:, None]).to(dtype)
    x[3] = 0
    stored, scale = quantize_rows(x)
    back = stored.float() * scale
    assert stored.dtype == torch.float8_e4m3fn
    assert scale.shape == (7, 1)
    assert scale.dtype == torch.float32
    assert bool((((back - x.float()).abs()) <= x.float().abs() * FP8_ERROR + scale * FP8_STEP + 1e-12).all())
    torch.testing.assert_close(back.abs().amax(1), x.float().abs().amax(1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", [(5, 32), (2, 5, 32)])
@pytest.mark.parametrize("bias", [False, True])
def test_a_layer_is_the_exact_product_of_the_rounded_values(shape, bias):
    torch.manual_seed(0)
    linear = nn.Linear(32, 48, bias=bias)
    layer = Fp8Linear(*quantize_rows(linear.weight.detach()), linear.bias, exact_product)
    x = torch.randn(shape)
    rounded = [
        stored.double() * scale for stored, scale in map(quantize_rows, (x.view(-1, 32), linear.weight))
    ]
    expected = rounded[0] @ rounded[1].mT + (linear.bias.double() if bias else 0)
    with torch.inference_mode():
        torch.testing.assert_close(layer(x).double(), expected.view(*shape[:-1], 48), rtol=1e-5, atol=1e-5)
        assert float((layer(x) - linear(x)).norm() / linear(x).norm()) < 0.06


def test_the_blocks_between_are_in_fp8_and_nothing_else(make_deep, streams):
    model = make_deep()
    names = set(model.state_dict())
    count = use_fp8(model, exact_product)
    changed = {name for name, module in model.named_modules() if isinstance(module, Fp8Linear)}
    assert len(changed) == count > 40
    assert {name.split(".")[1] for name in changed} == {"1", "2"}
    assert not any("gate" in name or "adaln" in name for name in changed)
    assert set(model.state_dict()) == names | {f"{name}.weight_scale" for name in changed}
    assert use_fp8(model, exact_product) == 0
    plain = make_deep()
    with torch.inference_mode():
        given = clip(plain.config, streams)
        for a, e in zip(model(*given), plain(*given), strict=True):
            assert 0 < float((a - e).norm() / e.norm()) < 0.25


def test_blocks_in_fp8_are_half_as_large_and_stream_to_the_same_bits(make_deep, streams):
    model = make_deep().bfloat16()
    block = model.transformer_blocks[1]
    before = sum(t.nbytes for t in (*block.parameters(), *block.buffers()))
    use_fp8(model, exact_product)
    after = sum(t.nbytes for t in (*block.parameters(), *block.buffers()))
    assert after < 0.65 * before
    given = [
        replace(s, tokens=s.tokens.bfloat16(), context=s.context.bfloat16())
        for s in clip(model.config, streams)
    ]
    with torch.inference_mode():
        resident = model(*given)
        streaming = BlockStreaming(model, "cpu", resident=1)
        try:
            assert all(torch.equal(a, e) for a, e in zip(model(*given), resident, strict=True))
        finally:
            streaming.close()


def test_layers_that_a_file_stores_in_fp8_keep_their_values(make_deep):
    model = make_deep()
    linear = model.transformer_blocks[1].ff.net[2]
    weight, scale = quantize_fp8(linear.weight.detach())
    tensors = {"weight": weight, "weight_scale": scale}
    infos = {
        name: TensorInfo(name, kind, tuple(tensors[name].shape), 0, tensors[name].nbytes, Path("none"))
        for name, kind in (("weight", "F8_E4M3"), ("weight_scale", "F32"))
    }
    stored = QuantizedLinear(linear, StoredLayer("ff", Format("float"), infos))
    for name, tensor in tensors.items():
        setattr(stored, name, tensor)
    stored.bias = linear.bias
    model.transformer_blocks[1].ff.net[2] = stored
    use_fp8(model, exact_product)
    layer = model.transformer_blocks[1].ff.net[2]
    assert isinstance(layer, Fp8Linear)
    assert torch.equal(layer.weight.float() * layer.weight_scale, weight.float() * scale)


@pytest.mark.gpu
@pytest.mark.skipif(KERNEL is not None, reason=str(KERNEL))
@pytest.mark.parametrize("bias", [False, True])
def test_the_kernel_gives_the_exact_product(bias):
    torch.manual_seed(0)
    x, w = (torch.randn(n, 512, device="cuda", dtype=torch.bfloat16) for n in (300, 1024))
    given = (*quantize_rows(x), *quantize_rows(w))
    b = torch.randn(1024, device="cuda", dtype=torch.bfloat16) if bias else None
    exact = exact_product(*given, b, torch.float32)
    made = kernel_product(*given, b, torch.bfloat16).float()
    assert float((made - exact).norm() / exact.norm()) < 0.005
