"""Rows rounded to fp8 or int8, each with a scale of its own, for products in these formats.

Plain torch reads and writes 33 bytes for each value in bfloat16 for this, the kernel 3.

Letters: M rows, I values of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .language import jit, launch, tl, triton, warps

LARGEST = {torch.float8_e4m3fn: 448.0, torch.int8: 127.0}
"""dtype -> its largest number, to which the largest magnitude of a row is scaled."""

# Far below the scale of any row that is not zero, and far above the smallest float32.
TINY = 1e-12


def formula(x: Tensor, dtype: torch.dtype = torch.float8_e4m3fn) -> tuple[Tensor, Tensor]:
    """Round x (M, I) to ``dtype``, float8_e4m3fn or int8; returns (M, I) and float32 scales (M, 1).

    x = stored * scale, up to rounding to the nearest. The largest magnitude of a row becomes the largest
    number of the dtype, so that nothing is clipped.
    """
    # As a norm it is one kernel without a copy of x, unlike the maximum of x.abs().
    largest = torch.linalg.vector_norm(x, float("inf"), dim=-1, keepdim=True, dtype=torch.float32)
    # A row of zeros would otherwise be divided by zero.
    scale = (largest / LARGEST[dtype]).clamp_(min=TINY)
    scaled = x / scale
    return (scaled if dtype.is_floating_point else scaled.round_()).to(dtype), scale


def quantize_rows(x: Tensor, dtype: torch.dtype = torch.float8_e4m3fn) -> tuple[Tensor, Tensor]:
    """The result of :func:`formula` by one kernel."""
    rows, width = x.shape
    stored = torch.empty(rows, width, dtype=dtype, device=x.device)
    scale = torch.empty(rows, 1, dtype=torch.float32, device=x.device)
    assert x.stride(1) == 1
    launch(
        _quantize_rows,
        rows,
        *(x, stored, scale, x.stride(0)),
        on=x.device,
        WIDTH=width,
        BLOCK=triton.next_power_of_2(width),
        LARGEST=LARGEST[dtype],
        TINY=TINY,
        WHOLE=not dtype.is_floating_point,
        num_warps=warps(width),
    )
    return stored, scale


@jit
def _quantize_rows(  # type: ignore[no-untyped-def]
    x,
    stored,
    scale,
    x_row,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    LARGEST: tl.constexpr,
    TINY: tl.constexpr,
    WHOLE: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, BLOCK)
    inside = channel < WIDTH
    value = tl.load(x + row * x_row + channel, mask=inside, other=0.0).to(tl.float32)
    # As in the formula, division and not a product with the inverse: ties are rounded alike.
    step = tl.maximum(tl.div_rn(tl.max(tl.abs(value), axis=0), LARGEST), TINY)
    value = tl.div_rn(value, step)
    if WHOLE:
        # Adding and subtracting 1.5 * 2^23 rounds to the nearest whole number, ties to even, as torch does.
        value = (value + 12582912.0) - 12582912.0
    tl.store(stored + row * WIDTH + channel, value.to(stored.dtype.element_ty), mask=inside)
    tl.store(scale + row, step)
