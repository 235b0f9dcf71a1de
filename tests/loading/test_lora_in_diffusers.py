"""A LoRA as training saves it changes the transformer of diffusers as it does ours."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from ltx2_core.loading import Component, open_checkpoint, open_lora
from ltx2_core.loading.lora_dialects import diffusers_name
from ltx2_core.loading.save_diffusers import save_diffusers
from ltx2_core.training.lora import ATTENTION_AND_FEED_FORWARD, LoraAdapters, save_lora


def test_a_trained_file_gives_the_same_weights_in_diffusers(tiny23, tmp_path) -> None:
    diffusers = pytest.importorskip("diffusers")
    pytest.importorskip("peft")
    checkpoint = open_checkpoint(tiny23.checkpoint)
    network = checkpoint.load(Component.TRANSFORMER, dtype=torch.float32)
    # An alpha that is not the rank: it is in the matrices, as no reader of official files would multiply it.
    adapters = LoraAdapters(network, rank=2, alpha=3.0, targets=ATTENTION_AND_FEED_FORWARD)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in adapters.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 8)
    path = tmp_path / "lora.safetensors"
    save_lora(path, adapters.tensors(), dtype=torch.float32)
    save_diffusers(tmp_path / "folder", [checkpoint])
    theirs = diffusers.LTX2VideoTransformer3DModel.from_pretrained(tmp_path / "folder" / "transformer")
    plain = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    theirs.load_lora_adapter(diffusers.LTX2Pipeline.lora_state_dict(path), prefix="transformer")
    theirs.fuse_lora()
    theirs.unload_lora()
    lora = open_lora(path)
    ours = checkpoint.load(Component.TRANSFORMER, dtype=torch.float32, loras=[lora]).state_dict()
    changed = theirs.state_dict()
    modules = {name.removeprefix("diffusion_model.").rpartition(".lora_")[0] for name in load_file(path)}
    assert len(modules) == len(adapters.names) > 20
    for module in modules:
        own = f"{diffusers_name(module)}.weight"
        torch.testing.assert_close(changed[own], ours[f"{module}.weight"], rtol=1e-5, atol=1e-6)
        assert not torch.equal(changed[own], plain[own])
