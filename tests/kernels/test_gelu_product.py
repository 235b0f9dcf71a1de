"""The GELU in the epilogue of a product: used for plain layers with a bias on a GPU, and nowhere else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from ltx2_core.kernels.gelu_product import Layer, formula
from ltx2_core.transformer.fused import Fused, has_gelu_product
from ltx2_core.transformer.layers import FeedForward

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "cuda_fake"))

from fake_cuda import pretend


def test_the_formula_is_the_layer_and_its_gelu():
    layer, x = nn.Linear(8, 32), torch.randn(2, 5, 8)
    with torch.no_grad():
        expected = nn.functional.gelu(layer(x), approximate="tanh")
        torch.testing.assert_close(formula(x, Layer(layer.weight, layer.bias)), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_passes_its_trial_once_for_all_layers_of_a_shape(dtype):
    with pretend() as device, torch.inference_mode():
        fused, x = Fused(), torch.randn(2, 5, 8).to("cuda", dtype)
        for _ in range(2):
            layer = FeedForward(8, dtype=dtype).to("cuda")
            before, waits = device.kernels["gelu_"], device.waits.total()
            joined = layer.after_gelu(fused.gelu_product(x, layer.first))
            tolerance = 1e-5 if dtype is torch.float32 else 2e-2
            torch.testing.assert_close(joined.cpu(), layer(x).cpu(), rtol=0, atol=tolerance)
        assert fused.problem is None
        assert device.kernels["gelu_"] == before + 1, "that of the layer alone"
        assert device.waits.total() - waits == 2, "the results that this test reads"


@pytest.mark.parametrize(
    "kind", ["no bias", "subclass", "hook", "replaced", "dtype", "bias", "CPU", "gradients"]
)
def test_other_layers_are_called_as_they_are(kind):
    with pretend(), torch.set_grad_enabled(kind == "gradients"):
        device = "cpu" if kind == "CPU" else "cuda"
        made = type("Own", (nn.Linear,), {}) if kind == "subclass" else nn.Linear
        layer = made(8, 32, bias=kind != "no bias").to(device)
        if kind == "hook":
            layer.register_forward_hook(lambda *_: None)
        if kind == "replaced":
            layer.forward = lambda x: x
        if kind == "bias":
            layer.bias = nn.Parameter(layer.bias.double())
        x = torch.zeros(1, 3, 8).to(device, torch.bfloat16 if kind == "dtype" else torch.float32)
        assert not has_gelu_product(layer, x)
        if kind == "CPU":
            assert has_gelu_product(nn.Linear(8, 32).to("cuda"), x.to("cuda"))


@pytest.mark.parametrize("kind", ["hook before", "hook", "hook of the GELU", "replaced GELU", "subclass"])
def test_a_feed_forward_that_something_changes_is_not_plain(kind):
    layer = (type("Own", (FeedForward,), {}) if kind == "subclass" else FeedForward)(8)
    assert layer.is_plain == (kind != "subclass")
    if kind == "hook before":
        layer.register_forward_pre_hook(lambda *_: None)
    if kind == "hook":
        layer.register_forward_hook(lambda *_: None)
    if kind == "hook of the GELU":
        layer.net[0].register_forward_hook(lambda *_: None)
    if kind == "replaced GELU":
        layer.net[0] = nn.Sequential(nn.Linear(8, 32), nn.SiLU())
    assert not layer.is_plain
