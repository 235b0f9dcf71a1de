"""A transformer in a GGUF file computes with its decoded weights, and takes LoRAs."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import replace

import pytest
import torch
from gguf_files import gguf, write_gguf
from safetensors.torch import save_file

from ltx2_core.conditioning.patchify import video_positions
from ltx2_core.loading import open_checkpoint
from ltx2_core.loading.convert import single_parts, split_parts
from ltx2_core.loading.describe import describe
from ltx2_core.loading.detect import Component
from ltx2_core.loading.lora import open_lora
from ltx2_core.storage.gguf import is_gguf
from ltx2_core.storage.quantized import QuantizedLinear, loaded_bytes
from ltx2_core.storage.reading import read_tensors
from ltx2_core.tiny.write import write_tiny_set
from ltx2_core.transformer import Modality


@pytest.fixture(scope="module")
def stored(tiny23):
    return read_tensors(open_checkpoint(tiny23.checkpoint).infos(Component.TRANSFORMER))


@pytest.fixture(scope="module")
def file(stored, tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny-Q8_0.gguf", stored)


@pytest.mark.parametrize("shapes", [False, True])
def test_the_network_computes_with_the_decoded_weights(stored, tmp_path, velocities, shapes):
    path = write_gguf(tmp_path / "tiny.gguf", stored, shapes=shapes)
    checkpoint = open_checkpoint(path)
    assert checkpoint.components == {Component.TRANSFORMER}
    assert checkpoint.generation == "2.3"
    network = checkpoint.load(Component.TRANSFORMER, dtype=torch.float32)
    layers = {n: m for n, m in network.named_modules() if isinstance(m, QuantizedLinear)}
    assert len(layers) > 20
    decoded = {f"{name}.weight": layer.decoded() for name, layer in layers.items()}
    plain = checkpoint.load(Component.TRANSFORMER, dtype=torch.float32)
    for name in layers:
        parent, _, child = name.rpartition(".")
        own = plain.get_submodule(name)
        linear = torch.nn.Linear(own.in_features, own.out_features, bias=own.bias is not None)
        linear.weight.data = decoded[f"{name}.weight"]
        if own.bias is not None:
            linear.bias.data = own.bias.data
        setattr(plain.get_submodule(parent), child, linear)
    for found, expected in zip(velocities(network), velocities(plain), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    for name, tensor in stored.items():
        if name in decoded:
            # Half a code of 1/127, and the rounding of its float16 factor.
            bound = tensor.float().abs().max() * (1 / 254 + 1 / 2048)
            assert (decoded[name] - tensor.float()).abs().max() <= bound


def test_a_lora_is_merged_and_taken_out_again(file, stored, tmp_path):
    name = next(n for n in stored if n.endswith("attn1.to_q.weight")).removesuffix(".weight")
    rows, columns = stored[f"{name}.weight"].shape
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(4, columns, generator=generator), torch.randn(rows, 4, generator=generator))
    save_file(
        {f"diffusion_model.{name}.lora_A.weight": a, f"diffusion_model.{name}.lora_B.weight": b},
        lora := tmp_path / "lora.safetensors",
    )
    checkpoint, opened = open_checkpoint(file), open_lora(lora, 0.5)
    network = checkpoint.load(Component.TRANSFORMER, loras=[opened])
    before = checkpoint.load(Component.TRANSFORMER).get_submodule(name).decoded()
    expected = before + 0.5 * b @ a
    assert (network.get_submodule(name).decoded() - expected).abs().max() <= expected.abs().max() / 120
    checkpoint.switch_loras(network, Component.TRANSFORMER, before=[opened], after=[])
    assert torch.equal(network.get_submodule(name).decoded(), before)


def test_inspect_names_formats_and_size(file):
    report = describe(file)
    assert report["kind"] == "transformer"
    assert report["dtypes"]["Q8_0"] > 20
    assert all(part["problem"] is None for part in report["components"])


def test_writers_of_other_layouts_refuse_it_by_name(file):
    for parts in (single_parts, split_parts):
        with pytest.raises(ValueError, match=r"tiny-Q8_0\.gguf is a GGUF file, which cannot be converted"):
            parts([open_checkpoint(file)])


def test_nan_in_a_factor_is_refused_by_name(file, stored, tmp_path):
    data = bytearray(file.read_bytes())
    info = next(i for i in open_checkpoint(file).tensors.values() if i.dtype == "Q8_0")
    data[info.start : info.start + 2] = b"\x00\x7e"
    damaged = tmp_path / "nan.gguf"
    damaged.write_bytes(data)
    with pytest.raises(ValueError, match=f"{info.name} holds values that are NaN or infinite"):
        open_checkpoint(damaged).load(Component.TRANSFORMER)


@pytest.mark.parametrize("kept", [4, 20, 200, 3000, -100])
def test_a_damaged_file_is_refused_by_name(file, tmp_path, kept):
    damaged = tmp_path / "short.gguf"
    damaged.write_bytes(file.read_bytes()[:kept])
    assert is_gguf(damaged)
    with pytest.raises(ValueError, match=r"short\.gguf"):
        open_checkpoint(damaged)


def test_random_damage_to_the_header_raises_nothing_but_a_value_error(file, tmp_path):
    data, generator = file.read_bytes(), torch.Generator().manual_seed(0)
    for _ in range(60):
        damaged = bytearray(data)
        for place in torch.randint(4, 4000, (8,), generator=generator).tolist():
            damaged[place] = int(torch.randint(0, 256, (1,), generator=generator))
        path = tmp_path / "damaged.gguf"
        path.write_bytes(damaged)
        # Names and metadata may be damaged without harm.
        with suppress(ValueError):
            open_checkpoint(path).check(Component.TRANSFORMER)


def test_without_the_package_a_line_says_what_to_install(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ValueError, match="needs the package gguf: pip install gguf"):
        open_checkpoint(file)


def test_metadata_of_the_file_that_it_was_made_of_is_read(stored, tmp_path, metadata23):
    path = tmp_path / "with-config.gguf"
    writer = gguf.GGUFWriter(path, "ltxv")
    for name, value in metadata23.items():
        writer.add_string(name, value)
    for name, tensor in stored.items():
        writer.add_tensor(name, tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    checkpoint = open_checkpoint(path)
    assert checkpoint.generation == "2.3"
    assert checkpoint.config["transformer"]
    checkpoint.check(Component.TRANSFORMER)


def test_a_plan_counts_layers_that_a_lora_makes_larger(file):
    infos = [i for i in open_checkpoint(file).tensors.values() if i.dtype == "Q8_0"]
    smaller = [replace(i, dtype="Q4_0", end=i.start + i.numel * 18 // 32) for i in infos]
    assert loaded_bytes(smaller, torch.bfloat16) == sum(i.nbytes for i in smaller)
    assert loaded_bytes(smaller, torch.bfloat16, changed=True) == sum(i.nbytes for i in infos)


def test_a_file_of_ltx_video_computes_with_the_decoded_weights(tmp_path):
    tiny = write_tiny_set(tmp_path / "set", generation="ltxv-2b", dtype=torch.float32)
    stored = read_tensors(open_checkpoint(tiny.checkpoint).infos(Component.TRANSFORMER))
    checkpoint = open_checkpoint(write_gguf(tmp_path / "ltxv-2b-Q8_0.gguf", stored))
    assert checkpoint.components == {Component.TRANSFORMER}
    assert checkpoint.generation == "0.9"
    network = checkpoint.load(Component.TRANSFORMER, dtype=torch.float32)
    layers = {n: m for n, m in network.named_modules() if isinstance(m, QuantizedLinear)}
    assert len(layers) > 20
    decoded = {f"{name}.weight": layer.decoded() for name, layer in layers.items()}
    for name, tensor in decoded.items():
        # Half a code of 1/127, and the rounding of its float16 factor.
        bound = stored[name].abs().max() * (1 / 254 + 1 / 2048)
        assert (tensor - stored[name]).abs().max() <= bound
    # Vectors are in bfloat16 in the GGUF. Without a header, as it is, so that both are read by their shapes.
    vectors = {name: tensor for name, tensor in network.state_dict().items() if name in stored}
    save_file({**vectors, **decoded}, plain := tmp_path / "plain.safetensors")
    other = open_checkpoint(plain).load(Component.TRANSFORMER, dtype=torch.float32)
    torch.testing.assert_close(video_velocity(network), video_velocity(other), rtol=0, atol=1e-5)


def video_velocity(network):
    """Of a fixed clip of 2 x 2 x 3 tokens, by a network without audio."""
    c, generator = network.config, torch.Generator().manual_seed(1)
    positions, sigma = video_positions(2, 2, 3, 24.0), torch.tensor([0.7])
    stream = Modality(
        tokens=torch.randn(1, positions.shape[2], c.in_channels, generator=generator),
        timesteps=sigma[:, None],
        sigma=sigma,
        positions=positions,
        context=torch.randn(1, 5, c.caption_channels, generator=generator),
    )
    with torch.no_grad():
        return network(stream, None)[0]
