"""Projections as one product: the same weights, names and result; layers that were moved multiply apart."""

import copy
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import nn

from ltx2_core.memory import BlockStreaming, Trace
from ltx2_core.transformer import Perturbation, Perturbations, Runner, Transformer
from ltx2_core.transformer.fp8 import Fp8Linear, exact_product, use_fp8
from ltx2_core.transformer.fused import Fused
from ltx2_core.transformer.packed import pack_projections, together

LAYERS = 2 * (2 * 3 + 4 * 2)
"""Of two blocks: q, k and v of two self-attentions, k and v of four others."""


@contextmanager
def counted(model):
    """How many linear layers multiply by themselves."""
    calls = []
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    hooks = [layer.register_forward_hook(lambda *given: calls.append(1)) for layer in layers]
    yield calls
    for hook in hooks:
        hook.remove()


def frozen(model):
    return copy.deepcopy(model).requires_grad_(False)


def run(model, streams, **changes):
    """Velocities with fused regions, and how many linear layers multiplied by themselves."""
    fused = Fused(kernels=False)
    given = [replace(make(model.config), **changes) for make in streams]
    with torch.inference_mode(), counted(model) as calls:
        made = Runner(model, fused=fused)(*given)
    assert fused.problem is None
    return made, len(calls)


def close(one, other):
    for a, e in zip(one, other, strict=True):
        torch.testing.assert_close(a, e, rtol=0, atol=2e-5)


def weights(model):
    tensors = [*model.parameters(), *model.buffers()]
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values()), sum(t.nbytes for t in tensors)


def test_packed_layers_are_the_same_layers_in_fewer_products(model, streams):
    plain, packed = frozen(model), frozen(model)
    # Of a block: two self-attentions save two products each, four others one each.
    assert pack_projections(packed.transformer_blocks) == 2 * 8
    assert pack_projections(packed.transformer_blocks) == 0
    (expected, whole), (actual, fewer) = run(plain, streams), run(packed, streams)
    close(actual, expected)
    assert whole - fewer == LAYERS
    before, after = plain.state_dict(), packed.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    held, named = weights(packed)
    assert held == named


def test_logits_of_gates_are_computed_by_the_product_of_the_queries(model23, streams):
    """Four numbers of 4 bytes are 16 bytes, so that queries behind them begin where attention can read."""
    torch.manual_seed(0)
    plain = Transformer(replace(model23.config, heads=4)).requires_grad_(False)
    for parameter in plain.parameters():
        parameter.normal_(std=0.2)
    packed = copy.deepcopy(plain)
    assert pack_projections(packed.transformer_blocks) == 2 * (8 + 6)
    (expected, whole), (actual, fewer) = run(plain, streams), run(packed, streams)
    close(actual, expected)
    assert whole - fewer == LAYERS + 2 * (6 + 4)


def test_layers_that_do_more_than_multiply_are_never_put_together(model, streams):
    """A file that is mapped into memory holds one layer behind another, and a host's layers add a LoRA."""

    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    plain, packed = frozen(model), frozen(model)
    pack_projections(packed.transformer_blocks)
    for network in (plain, packed):
        for attention in (m for m in network.modules() if hasattr(m, "to_v")):
            attention.to_v.__class__ = Doubled
    (expected, _), (actual, _) = run(plain, streams), run(packed, streams)
    close(actual, expected)


def test_without_fused_layers_or_with_gradients_each_multiplies_by_itself(model, streams):
    packed = frozen(model)
    pack_projections(packed.transformer_blocks)
    given = [make(model.config) for make in streams]
    counts = []
    for network in (frozen(model), packed):
        with torch.inference_mode(), counted(network) as calls:
            made = network(*given)
        counts.append(len(calls))
    assert counts[0] == counts[1]
    for a, e in zip(made, model(*given), strict=True):
        torch.testing.assert_close(a, e, rtol=0, atol=2e-5)


def test_never_more_than_one_group_is_there_twice(model23):
    model = frozen(model23)
    total, _ = weights(model)
    largest = 3 * model.transformer_blocks[0].attn1.to_q.weight.nbytes * 1.1
    held = [*model.parameters()]
    with torch.no_grad(), Trace(held) as trace:
        del held
        pack_projections(model.transformer_blocks)
    assert trace.peak <= total + largest


def test_a_weight_that_is_written_into_is_used_and_one_that_is_replaced_unpacks(model23, streams):
    model, attention = frozen(model23), None
    pack_projections(model.transformer_blocks)
    attention = model.transformer_blocks[0].attn1
    layers = attention.to_q, attention.to_k, attention.to_v
    for change in ("in place", "replaced"):
        if change == "in place":
            attention.to_k.weight.mul_(1.5)
        else:
            attention.to_k.weight = nn.Parameter(attention.to_k.weight * 1.5, requires_grad=False)
        assert (together(layers) is None) is (change == "replaced")
        fresh = frozen(model23)
        fresh.load_state_dict(model.state_dict())
        close(run(model, streams)[0], run(fresh, streams)[0])


def test_streamed_blocks_multiply_apart_and_packed_ones_again_afterwards(model23, streams):
    model = frozen(model23)
    pack_projections(model.transformer_blocks)
    expected, fewer = run(model, streams)
    streaming = BlockStreaming(model, "cpu", resident=0)
    try:
        actual, more = run(model, streams)
    finally:
        streaming.close()
    close(actual, expected)
    assert more == fewer + LAYERS
    again, count = run(model, streams)
    assert count == fewer
    close(again, expected)


@pytest.mark.parametrize("chunk_tokens", [None, 5])
def test_skipped_attention_and_chunks_are_served_too(model23, streams, chunk_tokens):
    skips = [None, Perturbations((Perturbation(video_self_attention="all"), Perturbation(v2a=[0])))]
    packed = frozen(model23)
    pack_projections(packed.transformer_blocks)
    given = [make(model23.config) for make in streams]
    for skip in skips:
        results = []
        for network in (frozen(model23), packed):
            runner = Runner(network, fused=Fused(kernels=False), chunk_tokens=chunk_tokens)
            with torch.inference_mode():
                results.append(runner(*given, skip))
        close(*results)


def test_layers_in_fp8_and_weights_with_gradients_stay_apart(make_deep, streams):
    model = make_deep()
    assert pack_projections(model.transformer_blocks) == 0
    model.requires_grad_(False)
    use_fp8(model, exact_product)
    pack_projections(model.transformer_blocks)
    plain = make_deep().requires_grad_(False)
    use_fp8(plain, exact_product)
    assert isinstance(model.transformer_blocks[1].attn1.to_q, Fp8Linear)
    close(run(model, streams)[0], run(plain, streams)[0])
