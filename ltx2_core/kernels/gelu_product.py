"""A linear layer and the GELU after it, by the matrix product's own epilogue.

Letters: B batch, N tokens, I and O widths of input and output.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, eq=False)
class Layer:
    """``weight`` (O, I) and ``bias`` (O,), if any, of a layer."""

    weight: Tensor
    bias: Tensor | None

    def kind(self) -> Hashable:
        """What a kernel is compiled for: one trial serves the layers of all blocks.

        It holds no weight, which would stay in memory, and nothing that changes when weights are moved.
        """
        return self.weight.shape, self.weight.dtype, self.weight.device, self.bias is None


def formula(x: Tensor, layer: Layer) -> Tensor:
    """GELU in its tanh form of ``layer`` of x (B, N, I), (B, N, O)."""
    bias = None if layer.bias is None else layer.bias.to(x.dtype)
    hidden = F.linear(x, layer.weight.to(x.dtype), bias)
    in_place: Tensor = torch.ops.aten.gelu_(hidden, approximate="tanh")
    return in_place


def gelu_product(x: Tensor, layer: Layer) -> Tensor:
    """The result of :func:`formula` by one kernel of CUDA, whose epilogue is the tanh form; with a bias."""
    activated: Any = torch._addmm_activation
    out: Tensor = activated(layer.bias, x.flatten(0, 1), layer.weight.T, use_gelu=True)
    return out.view(*x.shape[:2], -1)
