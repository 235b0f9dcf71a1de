"""The product that adds its gated update to the tokens gives what its formula gives, for all layouts."""

from __future__ import annotations

import gc
import time
import weakref

import pytest
import torch
from torch import Tensor, nn

from ltx2_core.kernels import output_product
from ltx2_core.kernels.gelu_product import Layer
from ltx2_core.kernels.language import interpreted, problem
from ltx2_core.kernels.output_product import tiles_for
from ltx2_core.kernels.timing import faster
from ltx2_core.memory import Trace
from ltx2_core.transformer.fused import Fused, can_add_product

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
needs_kernels = pytest.mark.skipif(problem(DEVICE) is not None, reason=f"{problem(DEVICE)}")
# The interpreter cuts bits off in place of rounding: of the input after the gates of heads and of the result.
TOLERANCES = {torch.float32: 1e-6, torch.bfloat16: 2**-6 if interpreted() else 2**-7}
HEADS = {"heads of 128": (2, 128), "heads of 64": (3, 64), "no gates of heads": (None, 80)}


def rand(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return values.to(DEVICE, dtype)


def given(heads, head, *, batch=2, tokens=13, width=80, dtype=torch.float32, bias=True, seed=4):
    """Arguments of the product: tokens and input are parts of wider tensors, the gate is one of three."""
    inner = head * (heads or 1)
    x = rand(batch, tokens + 2, 2 * width, dtype=dtype)[:, 1:-1, width:]
    gate = rand(batch, 1, 3, width, dtype=dtype, seed=1)[..., 2, :]
    source = rand(batch, tokens, 3, inner, dtype=dtype, seed=2)[..., 1, :]
    logits = None if heads is None else rand(batch, tokens, heads + 5, dtype=dtype, seed=3)[..., :heads]
    layer = Layer(
        rand(width, inner, dtype=dtype, seed=seed), rand(width, dtype=dtype, seed=5) if bias else None
    )
    return x, gate, source, logits, layer


def exact(arguments):
    *tensors, layer = arguments
    weights = Layer(layer.weight.double(), None if layer.bias is None else layer.bias.double())
    return output_product.formula(*(None if t is None else t.double() for t in tensors), weights)


def assert_same(arguments):
    x, expected = arguments[0], exact(arguments)
    assert output_product.output_product(*arguments) is x
    allowed = TOLERANCES[x.dtype] * float(expected.abs().max())
    torch.testing.assert_close(x.double(), expected, rtol=0, atol=allowed)


@needs_kernels
@pytest.mark.parametrize("dtype", [*TOLERANCES])
@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_a_gated_update_is_added_to_strided_tokens(dtype, kind, bias):
    assert_same(given(*HEADS[kind], dtype=dtype, bias=bias))


@needs_kernels
@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 257])
def test_any_number_of_tokens(tokens):
    assert_same(given(1, 64, batch=1, tokens=tokens, width=48))


@needs_kernels
@pytest.mark.parametrize(("tokens", "width"), [(1153, 2000), (1280, 2048)])
def test_tiles_of_long_clips(tokens, width):
    """Larger tiles, in several groups of rows."""
    assert tiles_for(tokens, width, 16, torch.bfloat16).rows == 128
    assert_same(given(None, 16, batch=1, tokens=tokens, width=width, dtype=torch.bfloat16))


@needs_kernels
def test_what_lies_between_tokens_is_not_written():
    whole = torch.full((2, 5, 96), 7.0, device=DEVICE)
    _, gate, source, logits, layer = given(1, 32, tokens=3, width=32)
    output_product.output_product(whole[:, 1:4, 32:64], gate, source, logits, layer)
    whole[:, 1:4, 32:64] = 7
    assert bool((whole == 7).all())


def test_depths_divide_heads_and_stay_small():
    for head in (16, 32, 48, 64, 80, 128, 4096, 16384):
        for dtype in (torch.bfloat16, torch.float32):
            for tokens in (126, 6144):
                depth = tiles_for(tokens, 4096, head, dtype).depth
                assert head % depth == 0
                assert 16 <= depth <= 64


def test_tokens_are_unchanged_if_the_formula_runs_out_of_memory():
    arguments = given(2, 16)
    before = arguments[0].clone()
    with torch.inference_mode():
        with pytest.raises(torch.OutOfMemoryError), Trace(limit=arguments[2].nbytes):
            output_product.formula(*arguments)
        assert torch.equal(arguments[0], before)


@needs_kernels
def test_it_passes_its_trial(monkeypatch):
    # Of so few tokens PyTorch may be the faster one.
    monkeypatch.setattr("ltx2_core.transformer.fused.faster", lambda *_: True)
    x, gate, source, logits, layer = given(2, 16)
    linear, fused = linear_of(layer), Fused()
    with torch.inference_mode():
        expected = exact((x, gate, source, logits, layer))
        assert fused.add_product(x, gate, source, logits, linear)
    torch.testing.assert_close(x.double(), expected, rtol=0, atol=1e-5)
    assert fused.problem is None
    assert fused.slower == 0


@needs_kernels
@pytest.mark.parametrize("faster_one", [True, False])
def test_the_faster_way_is_used(monkeypatch, faster_one):
    monkeypatch.setattr(
        "ltx2_core.transformer.fused.faster", lambda own, other, _: (own(), other(), faster_one)[2]
    )
    arguments, fused = given(2, 16), Fused()
    before = [t.clone() for t in arguments[:4]]
    with torch.inference_mode():
        assert fused._timed(*arguments) is faster_one
    # The tokens and what the product reads are as they were.
    assert all(map(torch.equal, before, arguments[:4]))
    assert fused.problem is None


@needs_kernels
@pytest.mark.parametrize(("fault", "told"), [("wrong", "is off by"), ("broken", "no such instruction")])
def test_a_product_that_fails_at_the_size_of_the_clip_is_told(monkeypatch, fault, told):
    def launch(x, *_):
        if fault == "broken":
            raise RuntimeError("no such instruction")
        return x.mul_(3)

    monkeypatch.setattr(output_product, "output_product", launch)
    fused = Fused()
    with torch.inference_mode():
        assert not fused._timed(*given(2, 16))
    assert told in fused.problem


@needs_kernels
def test_memory_that_runs_out_while_products_are_timed_is_no_fault():
    arguments, fused = given(2, 16), Fused()
    with torch.inference_mode(), Trace(limit=arguments[2].nbytes // 2):
        assert not fused._timed(*arguments)
    assert fused.problem is None


@needs_kernels
def test_one_trial_serves_all_blocks_while_their_weights_move():
    """Streamed weights leave the device once their block has run."""
    layers = [linear_of(given(None, 16, seed=number)[4]) for number in range(3)]
    x, gate, source, logits, _ = given(None, 16)
    fused = Fused()
    with torch.inference_mode():
        for layer in layers:
            assert fused.add_product(x, gate, source, logits, layer)
            layer.weight.data = layer.weight.data[:0]
    assert len(fused._outputs._passed) == 1


@needs_kernels
def test_trials_hold_no_weights():
    x, gate, source, logits, layer = given(None, 16)
    linear, fused = linear_of(layer), Fused()
    with torch.inference_mode():
        fused.add_product(x, gate, source, logits, linear)
    weight = weakref.ref(linear.weight)
    del linear, layer
    gc.collect()
    assert weight() is None


def linear_of(layer):
    linear = nn.Linear(*reversed(layer.weight.shape), bias=layer.bias is not None, device=DEVICE)
    linear.weight = nn.Parameter(layer.weight)
    if layer.bias is not None:
        linear.bias = nn.Parameter(layer.bias)
    return linear


@pytest.mark.parametrize(
    "kind",
    ["subclass", "hook", "replaced", "dtype", "float64", "device", "gradients", "a gate for each token"],
)
def test_other_layers_are_left_to_torch(kind):
    x, gate, source, logits, layer = given(2, 16, tokens=3)
    linear = linear_of(layer)
    with torch.no_grad():
        assert can_add_product(x, gate, source, logits, linear)
    if kind == "subclass":
        linear.__class__ = type("Own", (nn.Linear,), {})
    if kind == "hook":
        linear.register_forward_hook(lambda *_: None)
    if kind == "replaced":
        linear.forward = lambda x: x
    if kind == "dtype":
        linear.to(torch.bfloat16)
    if kind == "float64":
        x, gate, source, logits = (t.double() for t in (x, gate, source, logits))
        linear.double()
    if kind == "device":
        linear.to("meta")
    if kind == "a gate for each token":
        gate = gate.expand(-1, 3, -1)
    before = x.clone()
    with torch.set_grad_enabled(kind == "gradients"):
        assert not can_add_product(x, gate, source, logits, linear)
        assert not Fused().add_product(x, gate, source, logits, linear)
    assert torch.equal(x, before)


def test_narrow_heads_are_left_to_torch():
    """Matrix instructions multiply 16 values at a time, and a head of 8 has one gate for half of them."""
    for heads, head, fits in ((4, 8, False), (2, 24, False), (2, 48, True), (None, 24, False)):
        x, gate, source, logits, layer = given(heads, head)
        with torch.no_grad():
            assert can_add_product(x, gate, source, logits, linear_of(layer)) == fits


def test_the_faster_of_two_ways_is_found():
    def slow() -> None:
        time.sleep(0.01)

    assert faster(lambda: None, slow, torch.device("cpu"))
    assert not faster(slow, lambda: None, torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_faster_of_two_ways_is_found_on_a_gpu():
    few, many = (torch.randn(n, n, device="cuda") for n in (64, 4096))
    assert faster(lambda: few @ few, lambda: many @ many, few.device)
    assert not faster(lambda: many @ many, lambda: few @ few, few.device)
