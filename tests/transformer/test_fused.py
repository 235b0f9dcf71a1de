"""A transformer on fused kernels equals the plain one, and is plain where kernels cannot be used."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace

import pytest
import torch
from torch import nn

from ltx2_core.attention import attention, attention_backend
from ltx2_core.kernels.language import problem
from ltx2_core.memory import Trace
from ltx2_core.transformer import Runner
from ltx2_core.transformer.fp8 import exact_product, use_fp8
from ltx2_core.transformer.fused import Fused, can_fuse
from ltx2_core.transformer.modulation import ShiftScaleGate
from ltx2_core.transformer.perturbations import Perturbation, Perturbations

CPU = torch.device("cpu")
interpreted = pytest.mark.skipif(problem(CPU) is not None, reason=f"{problem(CPU)}")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def run(model, streams, fused, *, chunk_tokens=None):
    with torch.inference_mode():
        return Runner(model, fused=fused, chunk_tokens=chunk_tokens)(
            *(make(model.config) for make in streams)
        )


def with_image(streams):
    """The first half of the video is not noised, as with a first image: two segments of tokens."""
    noise = torch.tensor([0.0] * 6 + [0.9] * 6)[None].expand(2, -1)
    return (lambda config: replace(streams[0](config), timesteps=noise.contiguous()), streams[1])


def with_mask(streams):
    """Every token has a noise level of its own, so that modulation is looked up token by token."""
    noise = torch.linspace(0, 1, 12)[torch.randperm(12, generator=torch.Generator().manual_seed(5))]
    return (lambda config: replace(streams[0](config), timesteps=noise[None].expand(2, -1)), streams[1])


CLIPS = {"text": lambda streams: streams, "image": with_image, "mask": with_mask}


@interpreted
@pytest.mark.parametrize(("clip", "chunk_tokens"), [("image", None), ("mask", 7)])
def test_kernels_give_what_the_plain_operations_give(shallow, streams, clip, chunk_tokens):
    # The interpreter takes milliseconds for each token of each kernel.
    fused, (video, audio) = Fused(), CLIPS[clip](streams)
    single = [lambda config, make=make: first_sample(make(config)) for make in (video, audio)]
    expected = run(shallow, single, None)
    actual = run(shallow, single, fused, chunk_tokens=chunk_tokens)
    assert fused.problem is None
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=0, atol=2e-5)


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("chunk_tokens", [None, 5])
def test_their_formulas_give_what_the_plain_operations_give(model, streams, clip, chunk_tokens):
    streams = CLIPS[clip](streams)
    expected = run(model, streams, None)
    actual = run(model, streams, Fused(kernels=False), chunk_tokens=chunk_tokens)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=0, atol=2e-5)


@pytest.mark.parametrize("clip", CLIPS)
def test_an_update_is_added_by_the_kernel_that_reads_the_stream_next(model, streams, clip, monkeypatch):
    streams = CLIPS[clip](streams)
    plain = run(model, streams, None)
    gates, joined, add = count_gates(monkeypatch), [], Fused.add_norm_modulate
    monkeypatch.setattr(Fused, "add_norm_modulate", lambda *a, **k: joined.append(a[1].shape) or add(*a, **k))
    # As if the formulas were kernels, which join updates of several segments, too.
    monkeypatch.setattr(Fused, "compiled", True)
    actual = run(model, streams, Fused(kernels=False))
    # After self-attention and text attention of each stream, by the next branch that reads it. Generation 2.0
    # does not modulate its text attention, which therefore adds its update by itself.
    each = 3 if model.config.cross_attention_adaln else 1
    blocks = len(model.transformer_blocks)
    if clip == "text":
        # The feed-forward's is added by the next block.
        assert len(joined) == 2 * each * blocks + 2 * (blocks - 1)
        # That of the last block, which the head reads, and in 2.0 those before text attention.
        assert len(gates) == 2 + (0 if model.config.cross_attention_adaln else 2 * blocks)
    else:
        assert len(joined) > each * blocks
    for a, e in zip(actual, plain, strict=True):
        torch.testing.assert_close(a, e, rtol=0, atol=2e-5)


@pytest.mark.parametrize("seen_by", ["run_block", "hook", "forward"])
def test_what_reads_the_tokens_between_two_blocks_reads_all_updates(model, streams, seen_by, monkeypatch):
    plain, fused = [], []
    for seen, kernels in ((plain, None), (fused, Fused(kernels=False))):

        def look(*given, seen=seen):
            seen.extend(x.clone() for x in given[:2])

        def run_block(number, block, hidden, inputs, switches, look=look):
            look(*hidden)
            return block(*hidden, *inputs, switches)

        middle = model.transformer_blocks[1]
        hook = middle.register_forward_pre_hook(lambda _, given, look=look: look(*given))
        if seen_by != "hook":
            hook.remove()
        if seen_by == "forward":

            def forward(*given, look=look, middle=middle):
                look(*given)
                return type(middle).forward(middle, *given)

            monkeypatch.setattr(middle, "forward", forward)
        runner = Runner(model, fused=kernels, run_block=run_block if seen_by == "run_block" else None)
        with torch.inference_mode():
            runner(*(make(model.config) for make in streams))
        hook.remove()
    assert len(plain) == len(fused) >= 2
    for a, e in zip(fused, plain, strict=True):
        # Hidden tokens reach 50 here.
        torch.testing.assert_close(a, e, rtol=1e-5, atol=2e-5)


def test_tokens_between_blocks_that_stop_there_have_all_updates(model, streams):
    stopped = []
    for kernels in (None, Fused(kernels=False)):
        with torch.inference_mode():
            runner = Runner(model, fused=kernels)
            stopped.append(runner(*(make(model.config) for make in streams), until=1))
    for a, e in zip(*stopped, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-5, atol=2e-5)


@interpreted
@pytest.mark.parametrize("case", ["all", "chunks", "a sample without attention", "two segments"])
def test_the_last_product_of_a_branch_adds_its_update(shallow, streams, case, monkeypatch):
    """Of all tokens with one gate, where no sample is without attention between the streams."""
    model, config = shallow, shallow.config
    skips = Perturbation(video_self_attention="all", a2v="all")
    perturbations = Perturbations((skips, Perturbation())) if case.startswith("a sample") else None
    added, add = [], Fused.add_product
    monkeypatch.setattr(Fused, "add_product", lambda *a: added.append(add(*a)) or added[-1])
    inputs = [make(config) for make in (with_image(streams) if case == "two segments" else streams)]
    with torch.inference_mode():
        expected = Runner(model)(*inputs, perturbations)
        fused = Fused()
        chunks = 7 if case == "chunks" else None
        actual = Runner(model, fused=fused, chunk_tokens=chunks)(*inputs, perturbations)
    assert fused.problem is None
    # In 2.0 text attention has no gate. In 2.3 heads have gates, of which those of 8 values do not fit:
    # self-attention and text of video, and the feed-forward of both streams, do.
    gated = config.gated_attention
    used = {"all": 4 if gated else 6, "a sample without attention": 4 if gated else 5}
    assert sum(added) == used.get(case, 1 if gated else 3)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=0, atol=2e-5)


def test_a_stream_is_unchanged_if_the_formula_that_adds_to_it_runs_out_of_memory():
    x, update = torch.randn(2, 1, 3, 8)
    before, row = x.clone(), torch.randn(1, 1, 8)
    fused = Fused(kernels=False)
    with torch.inference_mode():
        for numbers in range(1, 4):
            with pytest.raises(torch.OutOfMemoryError), Trace(limit=numbers * x.nbytes - 1):
                fused.add_norm_modulate(x, update, row, row, row, 1e-6)
            assert torch.equal(x, before)
        fused.add_norm_modulate(x, update, row, row, row, 1e-6)
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
    moved = [lambda config, make=make: to(make(config), device="cuda") for make in streams]
    fused = Fused()
    for a, e in zip(run(model, moved, fused), run(model, moved, None), strict=True):
        torch.testing.assert_close(a, e, rtol=0, atol=1e-4)
    assert fused.problem is None
    model.to("cpu")


def first_sample(stream):
    own = ("tokens", "timesteps", "sigma", "context")
    return replace(stream, **{name: getattr(stream, name)[:1] for name in own})


def to(stream, **where):
    tensors = {f.name: getattr(stream, f.name) for f in fields(stream)}
    moved = {n: t.to(**where) for n, t in tensors.items() if isinstance(t, torch.Tensor) and n != "positions"}
    return replace(stream, **moved)


def test_an_input_is_rounded_to_fp8_once_for_all_layers_that_read_it(make_deep, streams, monkeypatch):
    """Queries, keys and values of the blocks between read the same tokens."""
    rounded, quantize = Counter(), Fused.quantize_rows
    monkeypatch.setattr(Fused, "quantize_rows", lambda self, x: rounded.update("n") or quantize(self, x))
    model, fused = make_deep(), Fused(kernels=False)
    use_fp8(model, exact_product, fused=fused)
    run(model, streams, fused)
    # Inputs of a block: self-attention 1, text attention 2, each of three for feed-forward and outputs.
    attentions = 6
    joint = {"attn1": 1, "attn2": 2, "audio_attn1": 1, "audio_attn2": 2, "between": 2 * 2}
    assert rounded["n"] == 2 * (sum(joint.values()) + attentions + 2 * 2)


class Doubled(nn.RMSNorm):
    """As layers of a host whose weight is changed when they are called."""

    weight_function = (lambda weight: 2 * weight,)


def test_norms_of_a_host_are_read_unless_their_weight_is_changed_on_use():
    """ComfyUI's norms derive from torch's."""
    x = torch.ones(1, 3, 8)
    host = type("HostNorm", (nn.RMSNorm,), {"weight_function": []})
    hooked = nn.RMSNorm(8, eps=1e-6)
    hooked.register_forward_pre_hook(lambda *_: None)
    with torch.inference_mode():
        assert can_fuse(nn.RMSNorm(8, eps=1e-6), x)
        assert can_fuse(host(8, eps=1e-6), x)
        assert not can_fuse(Doubled(8, eps=1e-6), x)
        assert not can_fuse(hooked, x)
        assert not can_fuse(nn.RMSNorm(8, eps=1e-6, dtype=torch.bfloat16), x), "it is cast when it is called"
        assert not can_fuse(nn.RMSNorm(8, eps=1e-6, device="meta"), x), "it is loaded when it is called"
        assert not can_fuse(nn.LayerNorm(8, eps=1e-6), x)
    assert not can_fuse(nn.RMSNorm(8, eps=1e-6), x), "kernels have no gradients"


def test_a_cpu_has_no_kernels_and_says_nothing(caplog, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert Fused.on(CPU) is None
    assert not caplog.text


def test_a_gpu_without_triton_says_what_to_install(caplog, monkeypatch):
    monkeypatch.setattr("ltx2_core.kernels.language.triton", None)
    assert Fused.on(torch.device("cuda")) is None
    assert "fused kernels are off: Triton is not installed: pip install triton" in caplog.text


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
