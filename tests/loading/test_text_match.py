"""Text encoders: quantised ones of the fourth generation, and those that belong to another checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ltx2_core.run.components import Components
from ltx2_core.run.execution import Execution
from ltx2_core.storage.dequantize import Format, decode
from ltx2_core.storage.header import read_header
from ltx2_core.storage.quantize import encode
from ltx2_core.storage.quantized import QuantizedLinear
from ltx2_core.text import Gemma, load_gemma
from ltx2_core.text.tiny_gemma import write_tiny_gemma
from ltx2_core.tiny.settings import TEXT_LAYERS, TEXT_WIDTH
from ltx2_core.types import Numerics

FORMATS = {
    "fp8": (Format("float"), {"format": "float8_e4m3fn"}),
    "int8": (Format("int8"), {"format": "int8_tensorwise"}),
    "int8 rotated": (
        Format("int8", 16),
        {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 16},
    ),
    "nvfp4": (Format("nvfp4"), {"format": "nvfp4"}),
}


@pytest.fixture(scope="module")
def gemma4(tmp_path_factory) -> Path:
    """A tiny Gemma 4 in one file, as LTX-2.5 packs it, of the width that tiny checkpoints take."""
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, "Gemma4UnifiedTextModel"):
        pytest.skip("this release of transformers has no Gemma 4")
    torch.manual_seed(0)
    config = transformers.Gemma4UnifiedTextConfig(
        vocab_size=512,
        hidden_size=TEXT_WIDTH,
        intermediate_size=128,
        num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        attention_k_eq_v=True,
        pad_token_id=0,
    )
    model = transformers.Gemma4UnifiedTextModel(config)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.1)
    path = tmp_path_factory.mktemp("gemma4") / "gemma4.safetensors"
    stated = {"model_type": "gemma4_unified", "text_config": model.config.to_dict(), "gemma_version": "4.1"}
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    save_file(tensors, path, metadata={"gemma_config": json.dumps(stated)})
    return path


def states(gemma: Gemma) -> Tensor:
    hidden_states: list[Tensor] = []
    ids = torch.tensor([[2, 5, 9, 11, 30]])
    gemma(ids, torch.ones_like(ids), lambda index, hidden: hidden_states.append(hidden.clone()))
    return torch.stack(hidden_states)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_quantised_gemma_4_computes_what_its_decoded_weights_do(kind, gemma4, tmp_path):
    form, entry = FORMATS[kind]
    stored = load_file(gemma4)
    decoded = dict(stored)
    for name, weight in load_file(gemma4).items():
        if not name.endswith("_proj.weight"):
            continue
        layer, parts = name.removesuffix(".weight"), encode(form, weight)
        stored |= {f"{layer}.{suffix}": part.contiguous() for suffix, part in parts.items()}
        stored[f"{layer}.comfy_quant"] = torch.tensor(list(json.dumps(entry).encode()), dtype=torch.uint8)
        decoded[name] = decode(layer, form, parts, tuple(weight.shape))
    metadata = {"gemma_config": json.dumps(read_header(gemma4).metadata["gemma_config"])}
    for name, tensors in (("stored", stored), ("decoded", decoded)):
        save_file(tensors, tmp_path / f"{name}.safetensors", metadata=metadata)
    ours, plain = (
        load_gemma(tmp_path / f"{name}.safetensors", dtype=torch.float32) for name in ("stored", "decoded")
    )
    assert ours.generation == 4
    assert isinstance(ours.model.layers[0].mlp.up_proj, QuantizedLinear)
    torch.testing.assert_close(states(ours), states(plain), atol=1e-5, rtol=1e-5)
    exact = states(load_gemma(gemma4, dtype=torch.float32))[-1]
    assert 0 < (states(ours)[-1] - exact).norm() / exact.norm() < 0.6


def encode_with(checkpoint: Path, text_encoder: Path) -> None:
    networks = Components(
        [checkpoint],
        text_encoder,
        execution=Execution.on("cpu", torch.float32),
        numerics=Numerics.OFFICIAL,
    )
    networks.encode(["a ball"])


def test_a_gemma_of_the_other_generation_is_refused_before_it_is_read(gemma4, generations, tiny23):
    with pytest.raises(
        ValueError, match=r"gemma4\.safetensors is a Gemma 4, LTX-2\.3 .*with a Gemma 3\. Use gemma_3_12B_it"
    ):
        encode_with(generations["2.3"], gemma4)
    with pytest.raises(
        ValueError,
        match=r"is a Gemma 3, LTX-2\.5 .*with a Gemma 4\. Use the Gemma 4 file of LTX-2\.5, gemma4-",
    ):
        encode_with(generations["2.5"], tiny23.text_encoder)


def test_a_gemma_of_another_width_is_refused_with_both_numbers(generations, tmp_path):
    write_tiny_gemma(tmp_path, hidden_size=32, layers=2)
    with pytest.raises(ValueError, match=r"3 hidden states of width 32, 96 values; .* takes \d+\."):
        encode_with(generations["2.3"], tmp_path)


def test_the_versions_of_gemma_that_two_files_state_must_agree(gemma4, generations, tmp_path):
    source = generations["2.5"]
    with safe_open(source, "pt") as file:
        stated = {**file.metadata(), "gemma_source_checkpoint": json.dumps({"gemma_version": "4.0"})}
    save_file(load_file(source), tmp_path / "x.safetensors", metadata=stated)
    with pytest.raises(ValueError, match=r"is gemma_version 4\.1, .*trained with 4\.0"):
        encode_with(tmp_path / "x.safetensors", gemma4)


def test_the_encoder_that_belongs_to_a_checkpoint_encodes(generations, tiny23):
    encode_with(generations["2.3"], tiny23.text_encoder)
