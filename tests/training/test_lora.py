"""LoRA adapters: zero at first, the only trained parameters, saved as official files."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ltx2_core.loading import Component, open_checkpoint, open_lora
from ltx2_core.training.lora import ATTENTION_AND_FEED_FORWARD, PREFIX, LoraAdapters, save_lora


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.ModuleDict({"to_q": nn.Linear(8, 8), "to_out": nn.Sequential(nn.Linear(8, 6))})
        self.other = nn.Linear(8, 8)

    def forward(self, x):
        return self.attn["to_out"](self.attn["to_q"](x) + self.other(x))


def trained(net: Net, **options) -> LoraAdapters:
    adapters = LoraAdapters(net, rank=2, **options)
    for pair in adapters.pairs:
        nn.init.normal_(pair.b)
    return adapters


def test_a_new_lora_changes_nothing_and_only_its_pairs_are_trained() -> None:
    net, x = Net(), torch.randn(3, 8)
    before = net(x)
    adapters = LoraAdapters(net, rank=2)
    torch.testing.assert_close(net(x), before)
    net(x).square().sum().backward()
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(parameter.grad is not None for parameter in adapters.parameters())
    assert adapters.names == ("attn.to_q", "attn.to_out.0")


def test_disabled_runs_the_base_network_and_remove_removes_the_hooks() -> None:
    net, x = Net(), torch.randn(3, 8)
    before = net(x)
    adapters = trained(net)
    assert not torch.allclose(net(x), before)
    with adapters.disabled():
        torch.testing.assert_close(net(x), before)
    adapters.remove()
    torch.testing.assert_close(net(x), before)


def test_saved_pairs_change_another_network_alike(tmp_path) -> None:
    net, x = Net(), torch.randn(3, 8)
    adapters = trained(net, alpha=6.0)
    save_lora(tmp_path / "a.safetensors", adapters.tensors(), dtype=torch.float32)
    twin = Net()
    twin.load_state_dict(net.state_dict())
    saved = load_file(tmp_path / "a.safetensors")
    for name in adapters.names:
        a, b = (saved[f"{PREFIX}{name}.lora_{half}.weight"] for half in "AB")
        twin.get_parameter(f"{name}.weight").data += b @ a
    torch.testing.assert_close(twin(x), net(x))


def test_targets_without_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="matches no linear layer"):
        LoraAdapters(Net(), rank=2, targets="nothing")


def test_the_merged_file_equals_the_trained_network(tiny_set, tmp_path) -> None:
    checkpoint = open_checkpoint(tiny_set.checkpoint)
    base = checkpoint.load(Component.TRANSFORMER)
    adapters = trained(base, targets=ATTENTION_AND_FEED_FORWARD, alpha=1.0)
    path = tmp_path / "lora.safetensors"
    save_lora(path, adapters.tensors(), dtype=torch.float32, metadata={"reference_downscale_factor": "2"})
    lora = open_lora(path)
    assert lora.reference_downscale_factor == 2
    report = checkpoint.lora_report(Component.TRANSFORMER, lora)
    assert len(report.matched) == len(adapters.names)
    assert not report.unmatched
    merged = checkpoint.load(Component.TRANSFORMER, loras=(lora,))
    block, twin = base.transformer_blocks[0], merged.transformer_blocks[0]
    x = torch.randn(2, 5, base.config.dim)
    torch.testing.assert_close(twin.ff(x), block.ff(x))
    torch.testing.assert_close(twin.attn1(x), block.attn1(x))
