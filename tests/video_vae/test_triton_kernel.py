"""The Triton kernel of neighbourhood attention, in Triton's interpreter, against the plain formula."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from itertools import product

import pytest
import torch

from ltx2_core.video_vae.diffusion import triton_kernel
from ltx2_core.video_vae.diffusion.attention import Masks, neighbourhood_attention
from ltx2_core.video_vae.diffusion.triton_check import fault, why_not
from ltx2_core.video_vae.diffusion.triton_kernel import formula
from ltx2_core.video_vae.diffusion.windows import Axis, Span, needed

# The kernel is interpreted once, which takes ten seconds, and not once in each worker.
pytestmark = pytest.mark.xdist_group("neighbourhood attention")

CPU = torch.device("cpu")
LENGTHS = (5, 5, 9)
ROUNDING = {torch.float16: 2**-11, torch.bfloat16: 2**-7}
"""Error in 16 bits over the largest value of the result: what rounding it once may add, in bfloat16 twice."""
IN_16_BITS = ("start", "end", "heads of 24 values")
CASES = {
    # name: lengths of the axes, windows, queries of each axis, heads and their width
    "whole clip": (LENGTHS, (3, 3, 5), ((0, 5), (0, 5), (0, 9)), (1, 16)),
    "start": (LENGTHS, (5, 3, 7), ((0, 2), (0, 3), (0, 5)), (2, 16)),
    "interior": (LENGTHS, (3, 3, 3), ((2, 4), (1, 4), (3, 7)), (2, 16)),
    "end": (LENGTHS, (3, 5, 7), ((3, 5), (4, 5), (2, 9)), (2, 16)),
    "one position": (LENGTHS, (5, 3, 7), ((4, 5), (0, 1), (8, 9)), (3, 16)),
    "even windows": (LENGTHS, (4, 2, 6), ((1, 4), (0, 5), (0, 9)), (1, 16)),
    "windows of one position": (LENGTHS, (1, 1, 1), ((0, 2), (0, 5), (0, 9)), (1, 16)),
    "windows as large as the clip": (LENGTHS, LENGTHS, ((0, 3), (2, 5), (0, 9)), (1, 16)),
    "heads of 24 values": (LENGTHS, (3, 3, 5), ((0, 2), (2, 5), (4, 9)), (2, 24)),
    "wide windows": ((2, 1, 20), (2, 1, 19), ((0, 2), (0, 1), (0, 20)), (1, 16)),
    "released windows": ((12, 12, 13), (11, 11, 11), ((0, 1), (10, 12), (4, 8)), (1, 16)),
}


def case(name, dtype=torch.float32, batch=1):
    """q, k and v of a case, and its axes; keys are those that the windows of the queries cover."""
    lengths, windows, queries, (heads, width) = CASES[name]
    spans = [Span(*span) for span in queries]
    held = [needed(span, n, size) for span, n, size in zip(spans, lengths, windows, strict=True)]
    generator = torch.Generator().manual_seed(3)
    q = torch.randn(batch, *(span.size for span in spans), heads, width, generator=generator)
    k, v = torch.randn(2, batch, *(span.size for span in held), heads, width, generator=generator)
    axes = tuple(
        Axis(queries=span, first_key=keys.start, length=n, window=size)
        for span, keys, n, size in zip(spans, held, lengths, windows, strict=True)
    )
    return (q * width**-0.5).to(dtype), k.to(dtype), v.to(dtype), axes


def views_of(k, v):
    """k and v as views of one larger tensor, which is NaN around them."""
    wide = torch.full((2, k.shape[0], *(size + 2 for size in k.shape[1:4]), *k.shape[4:]), float("nan"))
    views = wide[:, :, 1:-1, :-2, 2:]
    views[0], views[1] = k, v
    return views


def measured():
    """Run the kernel for all cases: the largest error of each, and what the check at first use says."""
    errors = {}
    cases = [(name, torch.float32) for name in CASES]
    for name, dtype in [*cases, *product(IN_16_BITS, ROUNDING)]:
        q, k, v, axes = case(name, dtype)
        exact = formula(q.float(), k.float(), v.float(), axes)
        error = (triton_kernel.by_triton(q, k, v, axes).float() - exact).abs().max()
        errors[f"{name}, {dtype}"] = float(error), float(exact.abs().max())
    q, k, v, axes = case("start", batch=2)
    found = triton_kernel.by_triton(q, *views_of(k, v), axes)
    errors["views"] = float((found - formula(q, k, v, axes)).abs().max()), 1.0
    return errors, why_not(CPU, torch.float32, 16, (1, 3, 3))


def in_a_process(name, *, interpret):
    """What a function of this file returns in a new process.

    Triton decides at its import whether it interprets.
    """
    command = [sys.executable, "-c", f"import runpy; runpy.run_path({__file__!r}, run_name={name!r})"]
    environment = {**os.environ, "TRITON_INTERPRET": interpret}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def interpreted():
    pytest.importorskip("triton")
    return in_a_process("measured", interpret="1")


@pytest.mark.parametrize("name", CASES)
def test_tiles_give_what_the_formula_gives(name):
    q, k, v, axes = case(name)
    found = neighbourhood_attention(q, k, v, axes, Masks())
    torch.testing.assert_close(found, formula(q, k, v, axes), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", CASES)
def test_the_kernel_gives_what_the_formula_gives(interpreted, name):
    error, _ = interpreted[0][f"{name}, torch.float32"]
    assert error <= 1e-6


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("name", IN_16_BITS)
def test_in_16_bits_the_kernel_is_off_by_the_rounding_of_the_largest_value(interpreted, name, dtype):
    error, largest = interpreted[0][f"{name}, {dtype}"]
    assert error <= ROUNDING[dtype] * largest


def test_keys_may_be_views_and_samples_several(interpreted):
    assert interpreted[0]["views"][0] <= 1e-6


def test_the_check_at_first_use_passes_the_kernel(interpreted):
    assert interpreted[1] == ""


def shifted(q, k, v, axes):
    """A kernel that is one column off."""
    return formula(q, k.roll(1, 3), v, axes)


def broken(q, k, v, axes):
    return torch.full_like(q, float("nan"))


def uncompiled(q, k, v, axes):
    raise RuntimeError("no kernel image\nis available")


@pytest.mark.parametrize(
    ("attend", "dtype", "reason"),
    [
        (formula, torch.float32, ""),
        (formula, torch.bfloat16, ""),
        (shifted, torch.float32, "its results are"),
        (shifted, torch.bfloat16, "its results are"),
        (broken, torch.float32, "its results are nan off"),
        (uncompiled, torch.float32, "RuntimeError: no kernel image"),
        (formula, torch.float64, "it does not compute in torch.float64"),
    ],
)
def test_the_check_at_first_use_says_what_is_wrong(attend, dtype, reason):
    found = fault(attend, CPU, dtype, 16, (3, 3, 5))
    assert found.startswith(reason)
    assert bool(found) == bool(reason)


def test_memory_that_runs_out_in_the_check_says_nothing_about_the_kernel():
    def full(q, k, v, axes):
        raise torch.OutOfMemoryError("no room")

    with pytest.raises(torch.OutOfMemoryError):
        fault(full, CPU, torch.float32, 16, (3, 3, 5))


def test_a_machine_that_cannot_run_the_kernel_says_why_once():
    # On the CPU Triton has no driver, or is not there.
    reasons, lines = in_a_process("unable", interpret="0")
    assert reasons[0]
    assert reasons[0] == reasons[1]
    assert lines == [
        "the diffusion decoder computes windows of 3 x 3 x 3 in float32 without its Triton kernel: "
        + reasons[0]
    ]


def unable():
    """What the check says twice where Triton cannot compile for the CPU, and the lines of its log."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger("ltx2_core").addHandler(handler)
    return [why_not(CPU, torch.float32, 16, (3, 3, 3)) for _ in range(2)], lines


if __name__ in ("measured", "unable"):
    torch.set_num_threads(1)
    print(json.dumps(globals()[__name__]()))
