"""CUDA graphs of the pretended device: operations are recorded, and computed again by a replay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fake_tensor import DeviceError
from torch import Tensor
from torch.utils._pytree import tree_leaves

Step = Callable[[], None]


class Graph:
    """A recorded sequence of operations, which compute from the same memory into the same memory."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.replays = 0

    def add(self, func: Any, args: Any, kwargs: Any, out: Any, *, mutable: bool) -> None:
        """Record an operation on values and ``out``, its result; ``mutable`` if it writes into arguments."""
        results = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        inputs = {
            t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)
        }
        if mutable:
            self.steps.append(lambda: func(*args, **kwargs))
        # A view needs nothing: it is another shape of memory that is written by its own operation.
        elif any(t.untyped_storage().data_ptr() not in inputs for t in results):
            self.steps.append(lambda: _write(results, func(*args, **kwargs)))

    def replay(self) -> None:
        """Compute all operations again."""
        self.replays += 1
        with torch.utils._python_dispatch._disable_current_modes(), torch.no_grad():
            for step in self.steps:
                step()


def _write(targets: list[Tensor], out: Any) -> None:
    for target, source in zip(targets, [t for t in tree_leaves(out) if isinstance(t, Tensor)], strict=True):
        if target.shape != source.shape:
            raise DeviceError("an operation of the graph has a result of another size when it is replayed")
        target.copy_(source)
