"""Fused regions equal the plain formulas, which run where they cannot be compiled."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from ltx2_core.attention import attention, attention_backend
from ltx2_core.memory import Trace
from ltx2_core.transformer import Runner
from ltx2_core.transformer.fused import Fused
from ltx2_core.transformer.modulation import ShiftScaleGate

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def run(model, streams, fused, *, chunk_tokens=None):
    with torch.inference_mode():
        return Runner(model, fused=fused, chunk_tokens=chunk_tokens)(
            *(make(model.config) for make in streams)
        )


@pytest.mark.parametrize("chunk_tokens", [None, 5])
def test_fused_regions_give_what_the_plain_ones_give(model23, streams, chunk_tokens):
    fused = Fused("aot_eager")
    expected = run(model23, streams, None)
    actual = run(model23, streams, fused, chunk_tokens=chunk_tokens)
    assert fused.problem is None
    assert len(fused._compiled) == 3
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=0, atol=2e-5)


def test_an_update_is_added_by_the_kernel_that_reads_the_stream_next(model, streams, monkeypatch):
    plain = run(model, streams, None)
    gates = count_gates(monkeypatch)
    fused, formulas, run_formula = Fused("eager"), [], Fused.run
    monkeypatch.setattr(Fused, "run", lambda *args: formulas.append(args[1].__name__) or run_formula(*args))
    actual = run(model, streams, fused)
    # After self-attention and text attention of each stream, by the next branch that reads it. Generation 2.0
    # does not modulate its text attention, which therefore adds its update by itself.
    each = 3 if model.config.cross_attention_adaln else 1
    assert formulas.count("_add_norm_modulate") == 2 * each * len(model.transformer_blocks)
    assert not gates
    for a, e in zip(actual, plain, strict=True):
        torch.testing.assert_close(a, e, rtol=0, atol=2e-5)


def test_tokens_of_several_noise_levels_are_added_segment_by_segment(model23, streams, monkeypatch):
    noise = torch.tensor([0.0, *[0.9] * 11])[None].expand(2, -1)
    image = (lambda config: replace(streams[0](config), timesteps=noise), streams[1])
    expected = run(model23, image, None)
    gates = count_gates(monkeypatch)
    for a, e in zip(run(model23, image, Fused("eager")), expected, strict=True):
        torch.testing.assert_close(a, e, rtol=0, atol=2e-5)
    assert len(gates) == 4 * len(model23.transformer_blocks), "those of the video"


def test_a_stream_is_unchanged_if_the_kernel_that_adds_to_it_runs_out_of_memory():
    x, update = torch.randn(2, 1, 3, 8)
    before, row = x.clone(), torch.randn(1, 1, 8)
    with torch.inference_mode():
        for numbers in range(1, 4):
            with pytest.raises(torch.OutOfMemoryError), Trace(limit=numbers * x.nbytes - 1):
                Fused("eager").add_norm_modulate(x, update, row, row, row, 1e-6)
            assert torch.equal(x, before)
        Fused("eager").add_norm_modulate(x, update, row, row, row, 1e-6)
    torch.testing.assert_close(x, before + update * row)


def count_gates(monkeypatch):
    """A list that gets an entry for each update that is added by itself."""
    gates, add = [], ShiftScaleGate.add
    monkeypatch.setattr(ShiftScaleGate, "add", lambda *args, **how: gates.append(how) or add(*args, **how))
    return gates


@pytest.mark.gpu
@needs_gpu
def test_fused_kernels_give_what_the_plain_ones_give_on_a_gpu(model23, streams):
    model = model23.to("cuda")
    moved = [lambda config, make=make: to_cuda(make(config)) for make in streams]
    fused = Fused()
    for a, e in zip(run(model, moved, fused), run(model, moved, None), strict=True):
        torch.testing.assert_close(a, e, rtol=0, atol=1e-4)
    assert fused.problem is None
    model.to("cpu")


def to_cuda(stream):
    tensors = {f.name: getattr(stream, f.name) for f in fields(stream)}
    return replace(stream, **{n: t.cuda() for n, t in tensors.items() if isinstance(t, torch.Tensor)})


def test_after_a_failed_compilation_the_plain_formulas_run(model23, streams, caplog):
    fused = Fused("no_such_backend")
    expected, actual = run(model23, streams, None), run(model23, streams, fused)
    assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))
    assert "no_such_backend" in fused.problem
    assert "fused kernels are off" in caplog.text


def test_running_out_of_memory_does_not_count_as_a_failed_compilation(model23, streams):
    fused = Fused("aot_eager")
    run(model23, streams, fused)
    with pytest.raises(torch.OutOfMemoryError), Trace(limit=1):
        run(model23, streams, fused)
    assert fused.problem is None


def test_attention_is_the_plain_formula_and_names_its_backend():
    q, k, v = (torch.randn(2, 3, 5, 8) for _ in range(3))
    plain = torch.softmax(q @ k.mT / 8**0.5, dim=-1) @ v
    torch.testing.assert_close(attention(q, k, v), plain)
    assert attention_backend(torch.device("cpu"), torch.bfloat16) == "PyTorch"


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("width", [64, 128])
def test_attention_on_a_gpu_is_the_plain_formula(width):
    q, k, v = (torch.randn(2, 4, 300, width, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    plain = torch.softmax(q.float() @ k.float().mT / width**0.5, dim=-1) @ v.float()
    with torch.inference_mode():
        torch.testing.assert_close(attention(q, k, v).float(), plain, rtol=0, atol=0.02)
    assert attention_backend(torch.device("cuda"), torch.bfloat16)
