"""What a LoRA run trains beside a linear layer: a low-rank pair, a DoRA, a Kronecker product.

Letters: R rank, I inputs, O outputs; A (R, I), B (O, R). All parameters are float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..storage.quantized import QuantizedLinear

Kind = Literal["lora", "dora", "lokr"]
KINDS: tuple[Kind, ...] = get_args(Kind)

Linear = nn.Linear | QuantizedLinear

_LARGEST_FACTOR = 16
"""The small factor of a Kronecker product has at most so many rows and columns."""


class Adapter(nn.Module):
    """What is added to the output of one linear layer; ``scale`` multiplies it."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def changed_input(self, x: Tensor, _layer: Linear) -> Tensor:
        """The input (..., I) that the layer gets in place of ``x``."""
        return x

    def tensors(self) -> dict[str, Tensor]:
        """Copies of what is saved, by the ending of its name, with the scale multiplied in."""
        raise NotImplementedError

    def load(self, tensors: Mapping[str, Tensor]) -> bool:
        """Start from saved tensors, by the ending of their names; False if they do not fit."""
        raise NotImplementedError


class Pair(Adapter):
    """The matrices A and B of a LoRA (Hu et al., 2021): adds scale * B A x. B starts at zero."""

    def __init__(self, layer: Linear, rank: int, scale: float, generator: torch.Generator) -> None:
        super().__init__(scale)
        device = layer.weight.device
        self.a = nn.Parameter(_kaiming(rank, layer.in_features, generator).to(device))
        # B at zero leaves the network unchanged before the first step.
        self.b = nn.Parameter(torch.zeros(layer.out_features, rank, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., I) -> scale * B A x (..., O), for a layer of I inputs and O outputs."""
        added: Tensor = F.linear(F.linear(x.to(self.a.dtype), self.a), self.b)
        return added * self.scale

    def tensors(self) -> dict[str, Tensor]:
        return {"lora_A.weight": self.a.detach().clone(), "lora_B.weight": self.b.detach() * self.scale}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> bool:
        a, b = tensors.get("lora_A.weight"), tensors.get("lora_B.weight")
        if a is None or b is None or a.shape != self.a.shape or b.shape != self.b.shape:
            return False
        self.a.copy_(a)
        # The scale was multiplied into B when the file was saved.
        self.b.copy_(b.to(self.b.dtype) / self.scale)
        return True


class Dora(Pair):
    """A DoRA (Liu et al., 2024): the columns of the changed weight are rescaled to trained magnitudes.

    By columns, as LyCORIS has it: for these ComfyUI and PEFT agree which norm is divided by. The gradient of
    that norm is left out (section 4.3 of the paper).
    """

    def __init__(self, layer: Linear, rank: int, scale: float, generator: torch.Generator) -> None:
        super().__init__(layer, rank, scale, generator)
        self.magnitude = nn.Parameter(_weight(layer).norm(dim=0, keepdim=True))

    def changed_input(self, x: Tensor, layer: Linear) -> Tensor:
        with torch.no_grad():
            changed = torch.addmm(_weight(layer), self.b, self.a, alpha=self.scale)
            norm = torch.linalg.vector_norm(changed, dim=0)
        # A column of zeros has no direction and must not divide by 0.
        factors: Tensor = self.magnitude[0] / (norm + torch.finfo(norm.dtype).eps)
        return x * factors.to(x.dtype)

    def tensors(self) -> dict[str, Tensor]:
        return {**super().tensors(), "dora_scale": self.magnitude.detach().clone()}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> bool:
        magnitude = tensors.get("dora_scale")
        if magnitude is None or magnitude.shape != self.magnitude.shape or not super().load(tensors):
            return False
        self.magnitude.copy_(magnitude)
        return True


class LoKr(Adapter):
    """A Kronecker product W1 x (W2a W2b) (Yeh et al., 2023), a change of high rank with few parameters.

    W1 is at most 16 x 16, W2a (O / rows of W1, R), W2b (R, I / columns of W1).
    """

    def __init__(self, layer: Linear, rank: int, scale: float, generator: torch.Generator) -> None:
        super().__init__(scale)
        rows, columns = (_factor(size) for size in (layer.out_features, layer.in_features))
        device = layer.weight.device
        self.w1 = nn.Parameter(_kaiming(rows, columns, generator).to(device))
        self.w2_a = nn.Parameter(torch.zeros(layer.out_features // rows, rank, device=device))
        self.w2_b = nn.Parameter(_kaiming(rank, layer.in_features // columns, generator).to(device))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., I) -> scale * (W1 x W2) x (..., O)."""
        grid = x.to(self.w1.dtype).unflatten(-1, (self.w1.shape[1], -1))
        inner = F.linear(F.linear(grid, self.w2_b), self.w2_a)
        added: Tensor = (self.w1 @ inner).flatten(-2)
        return added * self.scale

    def tensors(self) -> dict[str, Tensor]:
        return {
            "lokr_w1": self.w1.detach().clone(),
            "lokr_w2_a": self.w2_a.detach() * self.scale,
            "lokr_w2_b": self.w2_b.detach().clone(),
        }

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> bool:
        own = {"lokr_w1": self.w1, "lokr_w2_a": self.w2_a, "lokr_w2_b": self.w2_b}
        if any(name not in tensors or tensors[name].shape != p.shape for name, p in own.items()):
            return False
        for name, parameter in own.items():
            parameter.copy_(tensors[name])
        self.w2_a.div_(self.scale)
        return True


ADAPTERS: Mapping[Kind, Callable[[Linear, int, float, torch.Generator], Adapter]] = {
    "lora": Pair,
    "dora": Dora,
    "lokr": LoKr,
}


def _kaiming(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """A (rows, columns) matrix of the Kaiming uniform distribution with a = sqrt(5), as PEFT starts A."""
    return (torch.rand(rows, columns, generator=generator) * 2 - 1) * math.sqrt(1 / columns)


def _weight(layer: Linear) -> Tensor:
    """The weight (O, I) of a layer in float32, decoded if it is quantised."""
    weight = layer.decoded() if isinstance(layer, QuantizedLinear) else layer.weight.detach()
    return weight.float()


def _factor(size: int) -> int:
    """The largest divisor of ``size`` up to 16."""
    return max(n for n in range(1, min(size, _LARGEST_FACTOR) + 1) if size % n == 0)
