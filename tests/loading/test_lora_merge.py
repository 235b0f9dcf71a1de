"""Merging: one rounding, new scales, and LoRAs switched without drift and without a second model."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from ltx2_core.loading import Component, lora_merge, open_checkpoint, open_lora
from ltx2_core.loading.lora_merge import _Pair, merge_weight
from ltx2_core.storage.dequantize import Format
from ltx2_core.storage.quantize import encode
from ltx2_core.storage.quantized import QuantizedLinear
from ltx2_core.tiny.write import write_tiny_set

PREFIX = "model.diffusion_model."


@pytest.fixture
def lora_on(write):
    """A LoRA on every linear layer of a tiny transformer whose names end in one of ``ends``."""

    def make(checkpoint, *ends, seed=0, dtype=torch.bfloat16, name="lora.safetensors", rank=4):
        generator, tensors = torch.Generator().manual_seed(seed), {}
        for weight, shape in checkpoint.shapes(Component.TRANSFORMER).items():
            module = weight.removesuffix(".weight")
            if weight.endswith(".weight") and len(shape) == 2 and module.endswith(ends):
                a = torch.randn(rank, shape[1], generator=generator) / 10
                b = torch.randn(shape[0], rank, generator=generator) / 10
                tensors |= {f"{module}.lora_A.weight": a.to(dtype), f"{module}.lora_B.weight": b.to(dtype)}
        return write(tensors, name=name)

    return make


@pytest.mark.parametrize("multiplies_bfloat16", [True, False])
@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    ranks=st.lists(st.tuples(st.integers(1, 8), st.floats(-2, 2)), min_size=1, max_size=3),
    seed=st.integers(0, 99),
)
def test_a_merged_weight_is_the_exact_sum_rounded_once(rows, columns, ranks, seed, multiplies_bfloat16):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator).bfloat16()
    pairs = [
        _Pair(
            torch.randn(rank, columns, generator=generator).bfloat16(),
            torch.randn(rows, rank, generator=generator).bfloat16(),
            scale,
        )
        for rank, scale in ranks
    ]
    exact = weight.double() + sum(p.scale * (p.b.double() @ p.a.double()) for p in pairs)
    with pytest.MonkeyPatch.context() as processor:
        processor.setattr(lora_merge, "_multiplies_bfloat16", lambda device: multiplies_bfloat16)
        result = merge_weight(weight, pairs, torch.bfloat16)
    # Half a unit in the last place of bfloat16, and far less than that of the terms of sums that cancel.
    terms = weight.double().abs() + sum(
        abs(p.scale) * (p.b.abs().double() @ p.a.abs().double()) for p in pairs
    )
    limit = exact.abs() * 2.0**-8 + terms * 2.0**-15
    assert ((result.double() - exact).abs() <= limit).all()
    wide = merge_weight(weight.float(), pairs, torch.float32)
    torch.testing.assert_close(wide.double(), exact, rtol=1e-5, atol=1e-4)


def test_rows_are_merged_in_pieces_without_a_difference(monkeypatch):
    weight, pair = torch.randn(37, 8), _Pair(torch.randn(3, 8), torch.randn(37, 3), 0.3)
    whole = merge_weight(weight, [pair], torch.float32)
    monkeypatch.setattr(lora_merge, "ROWS", 10)
    torch.testing.assert_close(merge_weight(weight, [pair], torch.float32), whole, rtol=0, atol=1e-6)


def test_only_changed_layers_leave_the_memory_map(tiny23):
    checkpoint, lora = open_checkpoint(tiny23.checkpoint), open_lora(tiny23.lora)
    network = checkpoint.load(Component.TRANSFORMER, loras=[lora])
    private = {name for name, t in network.state_dict().items() if t.untyped_storage().resizable()}
    mapped = checkpoint.load(Component.TRANSFORMER).state_dict()
    report = checkpoint.lora_report(Component.TRANSFORMER, lora)
    assert not {n for n, t in mapped.items() if t.untyped_storage().resizable()}
    assert private == {f"{module}.weight" for module in report.matched}


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("generation", ["2.0", "2.3"])
def test_ten_exchanges_leave_the_bits_of_a_fresh_load(dtype, generation, tiny20, tiny23, lora_on):
    checkpoint = open_checkpoint((tiny20 if generation == "2.0" else tiny23).checkpoint)
    first = open_lora(lora_on(checkpoint, "to_q", "net.2", name="a.safetensors"), 0.7)
    second = open_lora(lora_on(checkpoint, "to_q", "to_v", "linear", seed=1, name="b.safetensors"), -1.3)
    sets = [(first,), (first, second), (), (second,)]
    # Copies, since weights as the file has them may be its pages in memory.
    loaded = [checkpoint.load(Component.TRANSFORMER, dtype=dtype, loras=loras).state_dict() for loras in sets]
    fresh = [{name: tensor.clone() for name, tensor in state.items()} for state in loaded]
    network, before = checkpoint.load(Component.TRANSFORMER, dtype=dtype, loras=sets[0]), sets[0]
    for number in range(1, 11):
        after = sets[number % len(sets)]
        checkpoint.switch_loras(network, Component.TRANSFORMER, before=before, after=after, dtype=dtype)
        before, state, expected = after, network.state_dict(), fresh[number % len(sets)]
        assert state.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(state[name], tensor), (number, name)
            assert state[name].dtype == tensor.dtype, (number, name)


@pytest.mark.parametrize("kind", ["float", "nvfp4", "int8", "mxfp8"])
def test_quantised_layers_get_a_fresh_scale_and_exchange_without_drift(kind, tiny20, lora_on, tmp_path):
    form, tensors, metadata = Format(kind), {}, {}
    for name, tensor in load_file(tiny20.checkpoint).items():
        module = name.removesuffix(".weight")
        if name.endswith((".to_q.weight", ".to_v.weight")) and ".attn1." in name and PREFIX in name:
            tensors |= {f"{module}.{suffix}": t for suffix, t in encode(form, tensor).items()}
            metadata[module] = {"format": FORMATS[kind]}
        else:
            tensors[name] = tensor
    path = tmp_path / "quantised.safetensors"
    stated = {
        "config": open_checkpoint(tiny20.checkpoint).config,
        "_quantization_metadata": {"layers": metadata},
    }
    save_file(tensors, path, metadata={key: json.dumps(value) for key, value in stated.items()})
    checkpoint = open_checkpoint(path)
    lora = open_lora(lora_on(checkpoint, "attn1.to_q", "attn1.to_k"), 2.0)
    plain = checkpoint.load(Component.TRANSFORMER)
    network = checkpoint.load(Component.TRANSFORMER, loras=[lora])
    layer = network.transformer_blocks[0].attn1.to_q
    assert isinstance(layer, QuantizedLinear)
    pair = load_file(lora.path)
    a, b = (pair[f"transformer_blocks.0.attn1.to_q.lora_{half}.weight"].float() for half in "AB")
    expected = plain.transformer_blocks[0].attn1.to_q.decoded() + 2.0 * (b @ a)
    error = (layer.decoded() - expected).norm() / expected.norm()
    assert error < {"float": 0.04, "nvfp4": 0.15, "int8": 0.02, "mxfp8": 0.05}[kind]
    before, after = (lora,), ()
    for _ in range(4):
        checkpoint.switch_loras(network, Component.TRANSFORMER, before=before, after=after)
        before, after = after, before
        fresh = checkpoint.load(Component.TRANSFORMER, loras=before).state_dict()
        state = network.state_dict()
        assert state.keys() == fresh.keys()
        for name in fresh:
            assert torch.equal(bits(state[name]), bits(fresh[name])), name


def bits(tensor):
    return tensor.reshape(-1).contiguous().view(torch.uint8)


FORMATS = {"float": "float8_e4m3fn", "nvfp4": "nvfp4", "int8": "int8_tensorwise", "mxfp8": "mxfp8"}


def test_a_plain_cast_to_fp8_gets_a_scale(tiny20, lora_on, tmp_path):
    path, tensors = tmp_path / "cast.safetensors", load_file(tiny20.checkpoint)
    name = f"{PREFIX}transformer_blocks.0.attn1.to_q.weight"
    tensors[name] = tensors[name].to(torch.float8_e5m2)
    save_file(tensors, path, metadata={"config": json.dumps(open_checkpoint(tiny20.checkpoint).config)})
    checkpoint = open_checkpoint(path)
    lora = open_lora(lora_on(checkpoint, "attn1.to_q"))
    network = checkpoint.load(Component.TRANSFORMER, loras=[lora])
    layer = network.transformer_blocks[0].attn1.to_q
    assert layer.weight.dtype == torch.float8_e4m3fn
    assert layer.weight_scale.ndim == 0
    assert layer(torch.ones(1, layer.in_features)).isfinite().all()


def extra_memory(run, *files):
    """The most bytes of tensors during ``run``, above those that it leaves; maps of ``files`` are none."""
    mapped = {path.stat().st_size for path in files}
    with torch.profiler.profile(profile_memory=True) as profile:
        run()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        if abs(event.nbytes()) not in mapped:
            now += event.nbytes()
            peak = max(peak, now)
    return peak - now


@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_an_exchange_takes_less_than_one_layer_beyond_the_model(dtype, tiny23, lora_on, monkeypatch):
    # A part of a layer is in float32 at once, as it is where layers have thousands of rows.
    monkeypatch.setattr(lora_merge, "ROWS", 16)
    checkpoint = open_checkpoint(tiny23.checkpoint)
    ends = ("to_q", "to_k", "to_v", "to_out.0", "net.2", "proj", "linear_1", "linear_2", "linear")
    sets = [[open_lora(lora_on(checkpoint, *ends, seed=seed, name=f"{seed}.safetensors"))] for seed in (0, 1)]
    network = checkpoint.load(Component.TRANSFORMER, dtype=dtype, loras=sets[0])
    pointers = {name: tensor.data_ptr() for name, tensor in network.named_parameters()}
    sizes = [tensor.nbytes for _, tensor in network.named_parameters()]

    def exchange():
        for before, after in (sets, sets[::-1], sets):
            checkpoint.switch_loras(network, Component.TRANSFORMER, before=before, after=after, dtype=dtype)

    # What was there before the profile began is not seen to go, so the exchanges are counted as they replace
    # each other's.
    peak = extra_memory(exchange, tiny23.checkpoint, sets[0][0].path, sets[1][0].path)
    assert peak <= max(sizes) < sum(sizes) / 3
    assert extra_memory(lambda: torch.zeros(1000)) == 4000, "the profiler counts what is gone again"
    assert pointers == {name: tensor.data_ptr() for name, tensor in network.named_parameters()}


def test_nothing_changes_when_the_new_set_fits_nowhere(tiny23, write):
    checkpoint, lora = open_checkpoint(tiny23.checkpoint), open_lora(tiny23.lora)
    network = checkpoint.load(Component.TRANSFORMER, loras=[lora])
    unchanged = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    foreign = open_lora(write({f"x.lora_{half}.weight": torch.zeros(4, 4) for half in "AB"}))
    with pytest.raises(ValueError, match="another model"):
        checkpoint.switch_loras(network, Component.TRANSFORMER, before=[lora], after=[foreign])
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, unchanged[name])


def test_plain_fp8_of_ltx_video_takes_a_lora_as_the_decoded_weights_do(lora_on, tmp_path):
    """The released fp8 files: matrices of the blocks in e4m3 without scales, all else in bfloat16."""
    tiny = write_tiny_set(tmp_path / "set", generation="ltxv-2b", dtype=torch.bfloat16)
    tensors = load_file(tiny.checkpoint)
    small = {
        name: tensor.to(torch.float8_e4m3fn)
        for name, tensor in tensors.items()
        if ".transformer_blocks." in name and name.endswith(".weight") and tensor.ndim == 2
    }
    assert len(small) == 20
    header = {"config": json.dumps(open_checkpoint(tiny.checkpoint).config)}
    save_file({**tensors, **small}, stored := tmp_path / "ltxv-13b-0.9.7-dev-fp8.safetensors", header)
    decoded = {name: tensor.bfloat16() for name, tensor in small.items()}
    save_file({**tensors, **decoded}, wide := tmp_path / "decoded.safetensors", header)
    checkpoint = open_checkpoint(stored)
    lora = open_lora(lora_on(checkpoint, "attn1.to_q", "net.2", "caption_projection.linear_1"), 0.7)
    before, merged = (checkpoint.load(Component.TRANSFORMER, loras=loras) for loras in ((), (lora,)))
    expected = open_checkpoint(wide).load(Component.TRANSFORMER, loras=[lora])
    matched = checkpoint.lora_report(Component.TRANSFORMER, lora).matched
    assert {"caption_projection.linear_1", "transformer_blocks.1.ff.net.2"} < set(matched)
    for module in matched:
        layer, weight = merged.get_submodule(module), expected.get_submodule(module).weight.float()
        assert (weight - decoded_of(before.get_submodule(module))).abs().max() > 0.01, module
        if isinstance(layer, QuantizedLinear):
            # Half a step of e4m3, in its normal and its smallest numbers, and the rounding of bfloat16.
            bound = weight.abs() * (2**-4 + 2**-8) + weight.abs().max() / 448 * 2**-9
            assert ((layer.decoded().float() - weight).abs() <= bound).all(), module
        else:
            assert torch.equal(layer.weight.float(), weight), module
    others = expected.state_dict().keys() - {f"{module}.weight" for module in matched}
    for name in others:
        assert torch.equal(merged.state_dict()[name].float(), expected.state_dict()[name].float()), name


def decoded_of(layer):
    return (layer.decoded() if isinstance(layer, QuantizedLinear) else layer.weight).float()
