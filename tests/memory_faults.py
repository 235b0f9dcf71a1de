"""An allocator that refuses: one call of an operation, or every one from it on, ends as out of memory."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

OPERATIONS = frozenset(
    {
        "linear",
        "conv1d",
        "conv2d",
        "conv3d",
        "conv_transpose1d",
        "scaled_dot_product_attention",
        "cat",
        "pad",
        "rms_norm",
        "addcmul",
        "matmul",
        "group_norm",
        "interpolate",
    }
)


class Faults(TorchFunctionMode):
    """Counts calls of ``OPERATIONS``; ``times`` of ``operation`` from ``number`` on fail, with ``on`` all."""

    def __init__(self, operation: str = "", number: int = -1, *, on: bool = False, times: int = 1) -> None:
        super().__init__()
        self.operation = operation
        self.failing = range(number, sys.maxsize if on else number + times)
        self.calls: Counter[str] = Counter()
        self.failed = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in OPERATIONS:
            at = self.calls[name]
            self.calls[name] += 1
            if name == self.operation and at in self.failing:
                self.failed += 1
                raise torch.OutOfMemoryError(f"CUDA out of memory in {name}")
        return func(*args, **(kwargs or {}))
