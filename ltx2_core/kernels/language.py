"""Triton, where it is installed: on which devices its kernels run, and how one is launched."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
# An installation that does not match torch fails in ways of its own; the plain formulas need none of it.
except Exception:  # noqa: BLE001 any error means that there is no Triton
    triton = tl = None

__all__ = ["interpreted", "jit", "launch", "problem", "steps", "tl", "triton", "warps"]

DEVICES = ("cuda", "xpu")
"""Types of devices for which Triton compiles; torch for AMD calls its devices cuda, too."""


def jit(function: Callable[..., None]) -> Any:
    """Decorate a kernel: ``triton.jit``, or the function itself where Triton is not installed."""
    return function if triton is None else triton.jit(function)


def interpreted() -> bool:
    """Whether Triton interprets kernels on the CPU instead of compiling them, as tests do (very slow)."""
    return triton is not None and os.environ.get("TRITON_INTERPRET") == "1"


def problem(device: torch.device) -> str | None:
    """Why kernels cannot run on ``device``, in words; None if they can."""
    if triton is None:
        return "Triton is not installed: pip install triton (on Windows: triton-windows)"
    if device.type in DEVICES or (device.type == "cpu" and interpreted()):
        return None
    return f"they are compiled for a GPU, and the device is {device}"


def launch(kernel: Any, programs: int, *arguments: Any, on: torch.device, **constants: Any) -> None:
    """Start ``programs`` programs of ``kernel`` on the device ``on``; an empty tensor needs none.

    ``constants`` are the parameters that are compiled in, and options such as ``num_warps``.
    """
    if programs:
        with _current(on):
            kernel[(programs,)](*arguments, **constants)


def warps(width: int) -> int:
    """How many warps compute a row of ``width`` values: 16 values for each thread, 4 to 16 warps."""
    return min(16, max(4, int(triton.next_power_of_2(width)) // 512))


def steps(tensor: Tensor) -> tuple[int, int]:
    """Distance in values between samples and between tokens of a tensor (B, N, ...), 0 along an axis of 1.

    So one row serves all tokens. The values of a token must be next to each other.
    """
    assert tensor.stride(-1) == 1
    sample, token = tensor.stride()[:2]
    return sample if tensor.shape[0] > 1 else 0, token if tensor.shape[1] > 1 else 0


def _current(device: torch.device) -> AbstractContextManager[Any]:
    # Triton launches on the current device, which need not be the one of the tensors.
    if device.type == "cuda":
        return torch.cuda.device(device)
    return torch.xpu.device(device) if device.type == "xpu" else nullcontext()
