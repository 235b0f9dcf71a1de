"""Whether the Triton kernel of neighbourhood attention is right on a device, by trying it once."""

from __future__ import annotations

import logging
from functools import cache

import torch
from torch import Tensor

from ...kernels.trial import tried
from .triton_kernel import MISSING, by_triton, formula
from .windows import Attend, Axes, Axis, Span, needed

_log = logging.getLogger(__name__)

TOLERANCES = {torch.float32: 1e-5, torch.float16: 2**-9, torch.bfloat16: 2**-6}
"""Largest error of the kernel that passes the check at first use, over the largest value of the result."""


def why_not(device: torch.device, dtype: torch.dtype, width: int, window: tuple[int, int, int]) -> str:
    """Why the kernel is not used for heads of ``width`` values and these windows; "" where it is.

    It is run once on a small clip of random numbers for each of these arguments, and has to give what the
    formula gives. If not, the reason is logged. Raises what running out of memory raises.
    """
    return _checked(by_triton, device, dtype, width, window)


@cache
def _checked(
    attend: Attend, device: torch.device, dtype: torch.dtype, width: int, window: tuple[int, int, int]
) -> str:
    problem = MISSING or fault(attend, device, dtype, width, window)
    if problem:
        size = " x ".join(map(str, window))
        _log.warning(
            "the diffusion decoder computes windows of %s in %s without its Triton kernel: %s",
            *(size, str(dtype).removeprefix("torch."), problem),
        )
    return problem


def fault(
    attend: Attend, device: torch.device, dtype: torch.dtype, width: int, window: tuple[int, int, int]
) -> str:
    """What is wrong with ``attend``, a function like :func:`by_triton`, on a small clip; "" if nothing is.

    The clip has borders on all sides, heads of ``width`` values, and windows of ``window`` positions.
    """
    limit = TOLERANCES.get(dtype)
    if limit is None:
        return f"it does not compute in {dtype}"
    q, k, v, axes = _sample(width, window)
    q, k, v = (x.to(device, dtype) for x in (q, k, v))

    def apart() -> float:
        found, expected = attend(q, k, v, axes).float(), formula(q, k, v, axes).float()
        return float((found - expected).abs().max() / expected.abs().max())

    difference, failure = tried(apart)
    if difference is None:
        return failure
    # Written so that NaN is a fault too.
    return "" if difference <= limit else f"its results are {difference:.1e} off, {limit:.1e} is allowed"


def _sample(width: int, window: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor, Axes]:
    """Random q, k and v (1, T, H, W, 2, ``width``) of a clip a few positions larger than a window."""
    generator = torch.Generator().manual_seed(0)
    lengths = [size + more for size, more in zip(window, (3, 5, 9), strict=True)]
    spans = [Span(length // 2, length) for length in lengths]
    held = [needed(span, n, size) for span, n, size in zip(spans, lengths, window, strict=True)]
    q = torch.randn(1, *(span.size for span in spans), 2, width, generator=generator) * width**-0.5
    k, v = torch.randn(2, 1, *(span.size for span in held), 2, width, generator=generator)
    times, rows, columns = (
        Axis(queries=span, first_key=keys.start, length=n, window=size)
        for span, keys, n, size in zip(spans, held, lengths, window, strict=True)
    )
    return q, k, v, (times, rows, columns)
