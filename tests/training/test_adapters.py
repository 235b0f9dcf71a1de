"""Kinds of adapters: saved and merged they act as in training; dropout, scales, resumed masks."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ltx2_core.loading import open_lora
from ltx2_core.loading.lora_merge import _read, merge_weight
from ltx2_core.storage.dequantize import Format, decode
from ltx2_core.storage.header import TensorInfo
from ltx2_core.storage.quantize import encode
from ltx2_core.storage.quantized import QuantizedLinear, StoredLayer
from ltx2_core.trainer.trainees import styled
from ltx2_core.training.adapters import KINDS
from ltx2_core.training.lora import LoraAdapters

NAME = "transformer_blocks.0.attn1.to_q"


class Net(nn.Module):
    """One layer under the name that it has in a transformer."""

    def __init__(self, layer: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.transformer_blocks = nn.ModuleList([nn.ModuleDict({"attn1": nn.Module()})])
        self.transformer_blocks[0]["attn1"].to_q = nn.Linear(12, 40) if layer is None else layer

    @property
    def layer(self) -> nn.Linear:
        return self.transformer_blocks[0]["attn1"].to_q

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def trained(net: Net, **options) -> LoraAdapters:
    adapters = LoraAdapters(net, rank=3, alpha=2.0, targets="to_q", **options)
    optimizer = torch.optim.SGD(adapters.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(1)
    for number in range(5):
        adapters.draw = number
        optimizer.zero_grad()
        x = torch.randn(16, 12, generator=generator)
        (net(x) - x.repeat(1, 4)[:, :40]).square().mean().backward()
        optimizer.step()
    return adapters


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stabilised", [False, True])
def test_what_is_saved_merges_into_the_layer_that_was_trained(kind, stabilised, tmp_path) -> None:
    net = Net()
    x = torch.randn(5, 12)
    before = net(x)
    adapters = trained(net, kind=kind, rank_stabilised=stabilised)
    assert adapters.scale == pytest.approx(2 / math.sqrt(3) if stabilised else 2 / 3)
    path = tmp_path / "lora.safetensors"
    save_file({n: t.contiguous() for n, t in adapters.tensors().items()}, path)
    lora = open_lora(path)
    assert lora.kinds == ({"lora": "LoRA", "dora": "DoRA", "lokr": "LoKr"}[kind],)
    with torch.no_grad(), safe_open(path, framework="pt") as file:
        change = _read(file, lora, lora.layers[NAME], 1.0, torch.device("cpu"))
        weight = merge_weight(net.layer.weight, [change], torch.float32)
        now = net(x)
        expected = nn.functional.linear(x, weight, net.layer.bias)
    torch.testing.assert_close(now, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(now, before, atol=1e-3)
    with adapters.disabled():
        torch.testing.assert_close(net(x), before)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_changes_nothing_before_its_first_step_and_loads_what_it_saved(kind) -> None:
    net = Net()
    x = torch.randn(5, 12)
    before = net(x)
    LoraAdapters(net, rank=3, targets="to_q", kind=kind)
    torch.testing.assert_close(net(x), before, rtol=1e-5, atol=1e-6)
    first, second = (
        trained(Net(), kind=kind),
        LoraAdapters(Net(), rank=3, alpha=2.0, targets="to_q", kind=kind),
    )
    saved = {name.rpartition("to_q.")[2]: tensor for name, tensor in first.tensors().items()}
    [(_, adapter)] = second.by_layer()
    assert adapter.load(saved)
    for name, tensor in first.tensors().items():
        torch.testing.assert_close(second.tensors()[name], tensor)
    [(_, wider)] = LoraAdapters(Net(), rank=4, targets="to_q", kind=kind).by_layer()
    assert not wider.load(saved)


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantised_layer_stays_as_stored_and_its_adapter_gets_gradients(kind) -> None:
    plain = nn.Linear(16, 32)
    tensors = encode(Format("float"), plain.weight.detach())
    kinds = {torch.float8_e4m3fn: "F8_E4M3", torch.float32: "F32"}
    infos = {
        n: TensorInfo(n, kinds[t.dtype], tuple(t.shape), 0, t.nbytes, Path("f")) for n, t in tensors.items()
    }
    quantised = QuantizedLinear(plain, StoredLayer("to_q", Format("float"), infos))
    quantised.load_state_dict({**tensors, "bias": plain.bias.detach()}, assign=True)
    net = Net(quantised)
    adapters = LoraAdapters(net, rank=2, targets="to_q", kind=kind)
    x = torch.randn(3, 16)
    torch.testing.assert_close(net(x), plain(x), rtol=0.1, atol=0.1)
    net(x).square().mean().backward()
    assert any(p.grad is not None and p.grad.any() for p in adapters.parameters())
    assert quantised.weight.dtype == torch.float8_e4m3fn


def four_bit_blocks() -> torch.Tensor:
    """Weights (32, 64) as blocks Q4_0 of GGUF: a factor in float16 and 32 numbers of four bits each."""
    blocks = torch.randint(256, (32, 2, 18), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    blocks[..., :2] = torch.tensor([0.02], dtype=torch.float16).view(torch.uint8)
    return blocks.flatten(1)


@pytest.mark.parametrize(
    "form",
    [Format("float"), Format("int8"), Format("int8", 16), Format("nvfp4"), Format("gguf", block="Q4_0")],
    ids=str,
)
def test_gradients_through_a_quantised_layer_are_those_of_its_decoded_weights(form) -> None:
    plain = nn.Linear(64, 32)
    tensors = {"weight": four_bit_blocks()} if form.kind == "gguf" else encode(form, plain.weight.detach())
    kinds = {torch.float8_e4m3fn: "F8_E4M3", torch.float32: "F32", torch.int8: "I8", torch.uint8: "U8"}
    infos = {
        n: TensorInfo(n, kinds[t.dtype], tuple(t.shape), 0, t.nbytes, Path("f")) for n, t in tensors.items()
    }
    if form.kind == "gguf":
        # The header entry of blocks has the shape of their values.
        infos["weight"] = TensorInfo("weight", "Q4_0", (32, 64), 0, tensors["weight"].nbytes, Path("f"))
    quantised = QuantizedLinear(plain, StoredLayer("to_q", form, infos))
    quantised.load_state_dict({**tensors, "bias": plain.bias.detach()}, assign=True)
    decoded = nn.Linear(64, 32)
    with torch.no_grad():
        decoded.weight.copy_(decode("to_q", form, tensors, (32, 64)))
        decoded.bias.copy_(plain.bias)
    found = []
    for layer in (quantised, decoded):
        net = Net(layer)
        adapters = LoraAdapters(net, rank=3, targets="to_q")
        nn.init.constant_(adapters.get_parameter("pairs.0.b"), 0.1)
        x = torch.randn(3, 64, generator=torch.Generator().manual_seed(1)).requires_grad_()
        net(x).square().mean().backward()
        found.append([x.grad, *(p.grad for p in adapters.parameters())])
    for one, other in zip(*found, strict=True):
        assert other.any()
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_dropout_follows_from_the_number_of_the_pass() -> None:
    net = Net()
    adapters = trained(net, dropout=0.5)
    x = torch.randn(5, 12)

    def forward(number: int) -> Tensor:
        adapters.draw = number
        return net(x).detach()

    assert torch.equal(forward(3), forward(3))
    assert not torch.equal(forward(3), forward(4))
    with torch.no_grad():
        assert torch.equal(forward(3), forward(4))
        whole = net(x)
    # The mean over masks is the pass without dropout.
    mean = torch.stack([forward(number) for number in range(400)]).mean(dim=0)
    torch.testing.assert_close(mean, whole, rtol=0.2, atol=0.2)


def test_names_of_kohya_and_without_prefix_are_read_as_the_same_lora(tmp_path) -> None:
    adapters = trained(Net())
    expected = adapters.tensors("")
    for style in ("official", "bare", "kohya"):
        path = tmp_path / f"{style}.safetensors"
        save_file({n: t.contiguous() for n, t in styled(expected, style).items()}, path)
        lora = open_lora(path)
        module = NAME.replace(".", "_") if style == "kohya" else NAME
        assert list(lora.layers) == [module]
        with safe_open(path, framework="pt") as file:
            change = _read(file, lora, lora.layers[module], 1.0, torch.device("cpu"))
        a, b = expected[f"{NAME}.lora_A.weight"], expected[f"{NAME}.lora_B.weight"]
        torch.testing.assert_close(change.scale * change.b @ change.a, b @ a)
