"""Multiplies by int8 weights as they are stored: inputs are rounded to int8 too, with a scale for each row.

Letters: M rows of the input, I inputs, O outputs, G inputs of a group that the file has rotated.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import torch
from einops import rearrange
from torch import Tensor

from ..kernels import quantize_rows
from ..kernels.trial import Kernel, Trials
from .dequantize import hadamard

_ALIGNED: Final = 8
"""The kernels need I and O to be multiples of this."""
_LEAST_ROWS: Final = 17
"""Fewest rows that the kernel of CUDA takes."""
_ROWS: Final = Kernel("quantize_rows", quantize_rows.quantize_rows, quantize_rows.formula)


def round_int8(x: Tensor, rotation: int) -> tuple[Tensor, Tensor]:
    """Round x (M, I) to int8: (M, I), and a float32 scale for each row (M, 1), by one kernel on a GPU.

    With ``rotation`` G the file has rotated each group of G inputs of the weight; the input is rotated alike,
    after which outliers are spread over the group and round less.
    """
    values = x.float()
    if rotation:
        groups = rearrange(values, "m (n g) -> m n g", g=rotation)
        # The rotation is symmetric and its own inverse, so that it may go to either factor.
        values = rearrange(groups @ hadamard(rotation).to(x.device), "m n g -> m (n g)")
    rounded: tuple[Tensor, Tensor] = _trials().run(_ROWS, values, dtype=torch.int8)
    return rounded


def int8_product(codes: Tensor, rows: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """Multiply the results (M, I) and (M, 1) of :func:`round_int8` by a stored weight: (M, O) in float32.

    ``weight`` (O, I) is int8, ``scale`` one number or (O, 1). Exact.
    """
    missing = max(0, _LEAST_ROWS - len(codes))
    padded = torch.nn.functional.pad(codes, (0, 0, 0, missing)) if missing else codes
    # Products of codes are at most 127 * 127 and are summed in int32, which holds 130,000 of them.
    product = torch._int_mm(padded, weight.t())[: len(codes)]
    return product.float() * rows * scale.float().reshape(1, -1)


@lru_cache(maxsize=1)
def _trials() -> Trials:
    return Trials()


def fits_int8_product(weight: Tensor) -> bool:
    """Whether the kernels take a weight (O, I) of this size; others are decoded."""
    return weight.shape[0] % _ALIGNED == weight.shape[1] % _ALIGNED == 0


def supports_int8_matmul(device: torch.device) -> bool:
    """Whether ``device`` multiplies int8 matrices with ``torch._int_mm``.

    Processors do, and NVIDIA devices of compute capability 7.5 or newer.
    """
    if not hasattr(torch, "_int_mm"):
        return False
    if device.type == "cpu":
        return True
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    # Turing is the first generation with tensor cores for int8.
    return torch.cuda.get_device_capability(device) >= (7, 5)
