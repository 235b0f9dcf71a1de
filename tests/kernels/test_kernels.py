"""Kernels give what their plain formulas give, for the sizes of all released generations and odd ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ltx2_core.kernels import add_tables, gate_heads, norm_activate, norm_modulate, norm_rotate, quantize_rows
from ltx2_core.kernels.language import interpreted, problem

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
pytestmark = pytest.mark.skipif(problem(DEVICE) is not None, reason=f"{problem(DEVICE)}")

# A kernel rounds to bfloat16 once, to the nearest, by which a number changes by at most 2^-8 of itself; the
# interpreter cuts bits off in place of rounding. The formula that is compared with computes in float32.
TOLERANCES = {torch.float32: (1e-6, 2e-6), torch.bfloat16: (2**-7 if interpreted() else 2**-8, 1e-4)}
DTYPES = [*TOLERANCES]
HEADS = [(32, 128), (32, 64), (3, 12)]
"""Video and audio of every released transformer, and numbers that are no powers of two."""
WIDTHS = [heads * width for heads, width in HEADS]


def rand(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return values.to(DEVICE, dtype)


def part_of_wider(tensor: Tensor) -> Tensor:
    """The same values, between which others lie, as in a joint product of several layers."""
    return torch.stack((torch.full_like(tensor, torch.nan), tensor), dim=-2).flatten(-2)[
        ..., tensor.shape[-1] :
    ]


def assert_same(
    kernel: Callable[..., Any], formula: Callable[..., Any], *arguments: Any, **settings: Any
) -> None:
    """Results, and arguments that are written into, equal those of the formula in float32."""
    dtype = arguments[0].dtype
    exact = [a.float().clone() if isinstance(a, Tensor) else a for a in arguments]
    expected = formula(*exact, **settings)
    actual = kernel(*arguments, **settings)
    rtol, atol = TOLERANCES[dtype]
    pairs = [
        (actual, expected),
        *((a, e) for a, e in zip(arguments, exact, strict=True) if isinstance(a, Tensor)),
    ]
    for a, e in pairs:
        torch.testing.assert_close(a.float(), e, rtol=rtol, atol=atol)
    assert actual.dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("by_token", [False, True], ids=["one row", "a row for each token"])
def test_norm_and_modulation(dtype, width, by_token):
    x = part_of_wider(rand(2, 3, width, dtype=dtype))
    # As they come from a table: shift, scale and gate next to each other.
    scale, shift, _ = rand(2, 3 if by_token else 1, 3, width, dtype=dtype, seed=1).unbind(-2)
    assert_same(norm_modulate.norm_modulate, norm_modulate.formula, x, None, None, scale, shift, 1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
def test_a_gated_update_before_norm_and_modulation(dtype, width):
    # Powers of two: the sum is then exact in bfloat16, too, and the norm is that of the same tokens.
    x, update = (rand(2, 3, width, dtype=dtype, seed=seed).sign() for seed in (0, 1))
    scale, shift, gate = rand(2, 1, 3, width, dtype=dtype, seed=2).unbind(-2)
    gate = gate.sign() * 2
    assert_same(norm_modulate.norm_modulate, norm_modulate.formula, x, update, gate, scale, shift, 1e-6)


def test_the_result_goes_where_it_is_told():
    x, scale, shift = rand(2, 5, 48, dtype=torch.float32), *rand(2, 2, 1, 48, dtype=torch.float32, seed=1)
    out = torch.full((2, 7, 48), 9.0, device=DEVICE)
    result = norm_modulate.norm_modulate(x, None, None, scale, shift, 1e-6, out[:, 1:6])
    torch.testing.assert_close(out[:, 1:6], norm_modulate.formula(x, None, None, scale, shift, 1e-6))
    assert result.data_ptr() == out[:, 1:6].data_ptr()
    assert bool((out[:, [0, 6]] == 9).all())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("adds", [False, True], ids=["as they are", "after an update"])
def test_two_branches_that_read_the_same_tokens(dtype, width, adds):
    x, update = (rand(2, 3, width, dtype=dtype, seed=seed).sign() for seed in (0, 1))
    *read, gate = rand(2, 1, 5, width, dtype=dtype, seed=2).unbind(-2)
    before = (update, gate.sign() * 2) if adds else (None, None)
    rooms = [part_of_wider(rand(2, 3, width, dtype=dtype, seed=seed)) for seed in (3, 4)]
    arguments = (x, *before, *read[:2], 1e-6, rooms[0], *read[2:], rooms[1])
    assert_same(norm_modulate.norm_modulate, norm_modulate.formula, *arguments)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("tables", [1, 2, 3])
def test_learned_tables_of_a_block(dtype, width, tables):
    """Of a stream with two groups of tokens, of attention between streams, and of the text."""
    given, layouts = [], ((2, 9), (2, 5), (1, 2))
    for seed, (groups, rows) in enumerate(layouts[:tables]):
        values = rand(rows, groups, width, dtype=dtype, seed=seed).transpose(0, 1)
        ones = torch.zeros(rows, 1, device=DEVICE, dtype=dtype)
        ones[1::3] = 1
        given += [values, rand(rows, width, dtype=dtype, seed=9 + seed), ones]
    exact = add_tables.formula(*(t.float() for t in given))
    actual = add_tables.add_tables(*given)
    rtol, atol = TOLERANCES[dtype]
    for found, expected in zip(actual[:tables], exact, strict=False):
        torch.testing.assert_close(found.float(), expected, rtol=rtol, atol=atol)
        assert found.dtype == dtype
    assert actual[tables:] == (None,) * (3 - tables)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "width"), HEADS)
@pytest.mark.parametrize("interleaved", [False, True], ids=["split", "interleaved"])
@pytest.mark.parametrize("batch", [1, 2], ids=["one table", "a table for each sample"])
@pytest.mark.parametrize("both", [False, True], ids=["queries", "queries and keys"])
def test_norm_and_rotation(dtype, heads, width, interleaved, batch, both):
    x, keys = (part_of_wider(rand(2, 3, heads * width, dtype=dtype, seed=seed)) for seed in (0, 3))
    weight, of_keys = (rand(heads * width, dtype=dtype, seed=seed) for seed in (1, 4))
    angles = rand(batch, heads, 3, width // 2, dtype=torch.float32, seed=2).transpose(1, 2)
    tables = (angles.cos().to(dtype), angles.sin().to(dtype).contiguous())
    settings = {"heads": heads, "interleaved": interleaved}
    other = (keys, of_keys) if both else (None, None)
    assert_same(norm_rotate.norm_rotate, norm_rotate.formula, x, weight, *other, 1e-6, *tables, **settings)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "width"), HEADS)
def test_gates_of_heads(dtype, heads, width):
    attended = rand(2, heads, 3, width, dtype=dtype).transpose(1, 2)
    assert_same(gate_heads.gate_heads, gate_heads.formula, attended, rand(2, 3, heads, dtype=dtype, seed=1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [4096, 48])
@pytest.mark.parametrize("stored", quantize_rows.LARGEST)
def test_rows_of_numbers_with_fewer_bits(dtype, width, stored):
    x = part_of_wider(
        rand(5, width, dtype=dtype) * torch.logspace(-3, 3, 5, device=DEVICE)[:, None].to(dtype)
    )
    x[2] = 0
    if stored.is_floating_point and interpreted():
        # The interpreter drops the carry from fraction to exponent, so that values are rounded beforehand.
        x = quantize_rows.formula(x)[0].to(dtype)
    (expected, scale), (rounded, step) = (
        quantize_rows.formula(x, stored),
        quantize_rows.quantize_rows(x, stored),
    )
    torch.testing.assert_close(step, scale, rtol=0, atol=0)
    assert torch.equal(rounded.float(), expected.float())


def test_more_than_two_billion_values_are_addressed():
    """A stride of 2^30 values: products with 32 bits would wrap around and read elsewhere."""
    room = torch.empty(0, device=DEVICE, dtype=torch.int8).new_empty(2**31 + 64)
    x = room.as_strided((3, 48), (2**30, 1))
    x.copy_(torch.arange(-72, 72, device=DEVICE).view(3, 48))
    stored, scale = quantize_rows.quantize_rows(x, torch.int8)
    expected = quantize_rows.formula(x.float(), torch.int8)
    assert torch.equal(stored, expected[0])
    assert torch.equal(scale, expected[1])


@pytest.mark.parametrize("tokens", [0, 1, 7])
def test_any_number_of_tokens(tokens):
    x = rand(2, tokens, 48, dtype=torch.float32)
    row = rand(2, 1, 48, dtype=torch.float32, seed=1)
    assert_same(norm_modulate.norm_modulate, norm_modulate.formula, x, None, None, row, row, 1e-6)
    assert_same(gate_heads.gate_heads, gate_heads.formula, x.view(2, tokens, 4, 12), x[..., :4].contiguous())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [128, 48])
@pytest.mark.parametrize("kept", [0, 1, 2])
@pytest.mark.parametrize(("before", "after", "keep"), [(0, 0, 2), (1, 1, 0), (2, 0, 2)])
@pytest.mark.parametrize("edge", [0, 1], ids=["as it is", "reflection"])
@pytest.mark.parametrize("activate", [False, True], ids=["raw", "norm"])
def test_windows_of_convolutions(dtype, channels, kept, before, after, keep, edge, activate):
    # Two samples with the channels next to each other or, as in a latent, far apart.
    x = rand(2, 3, 4, 5, channels, dtype=dtype)
    x = x if activate else x.movedim(-1, 1).contiguous().movedim(1, -1)
    past = rand(2, kept, 4, 5, channels, dtype=dtype, seed=1) if kept else None
    settings = {"keep": keep, "edge": edge, "activate": activate}
    actual, exact = (
        run(*(t if t is None else t.to(kind) for t in (x, past)), before, after, 1e-8, **settings)
        for run, kind in ((norm_activate.norm_activate, dtype), (norm_activate.formula, torch.float32))
    )
    rtol, atol = TOLERANCES[dtype]
    for found, expected in zip(actual, exact, strict=True):
        torch.testing.assert_close(found.float(), expected, rtol=rtol, atol=atol)
        assert found.dtype == dtype
        assert found.is_contiguous()
