"""LoRA training: low-rank pairs on frozen linear layers, saved in the official layout.

Letters: R rank, I inputs, O outputs; A (R, I), B (O, R).
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..storage.writing import write_tensors

ATTENTION = r"\.to_(q|k|v|out\.0)$"
"""Targets: all attention layers of all blocks, as most LoRAs of LTX-2 have."""

ATTENTION_AND_FEED_FORWARD = r"\.(to_(q|k|v|out\.0)|net\.(0\.proj|2))$"
"""Targets: attention and feed-forward layers of all blocks."""

PREFIX = "diffusion_model."
"""Prefix of module names in official LoRA files."""


class LoraAdapters(nn.Module):
    """Low-rank pairs for linear layers of a network; their matrices are the parameters of this module.

    Each layer gets a forward hook that adds ``scale * B A x``; its weights do not change, and
    :meth:`disabled` runs the network without the LoRA. B starts at zero, so the output is unchanged before
    the first step.

    Args:
        network: the network to adapt; all its parameters stop requiring gradients.
        rank: rank R of every pair.
        alpha: the pairs are scaled by alpha / R; by default alpha is R. The scale is folded into B when
            saved.
        targets: regular expression; a linear layer gets a pair if it occurs in the layer's name.
        seed: seed of the random A.

    Raises:
        ValueError: ``rank`` is below 1, or ``targets`` matches no linear layer.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        rank: int,
        alpha: float | None = None,
        targets: str = ATTENTION,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"rank={rank} must be at least 1")
        pattern = re.compile(targets)
        layers = {
            name: module
            for name, module in network.named_modules()
            if isinstance(module, nn.Linear) and pattern.search(name)
        }
        # An empty LoRA would train nothing and report no error.
        if not layers:
            raise ValueError(f"targets={targets!r} matches no linear layer in {type(network).__name__}")
        # Gradients of the frozen weights would take as much memory as the weights.
        network.requires_grad_(False)
        generator = torch.Generator().manual_seed(seed)
        self.scale = (rank if alpha is None else alpha) / rank
        self.enabled = True
        self.names = tuple(layers)
        self.pairs = nn.ModuleList(_Pair(layer, rank, generator) for layer in layers.values())
        self._handles = [
            layer.register_forward_hook(self._hook(pair))
            for layer, pair in zip(layers.values(), self.pairs, strict=True)
        ]

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Inside the ``with`` block the network runs without the LoRA, as the teacher of a student does."""
        before, self.enabled = self.enabled, False
        try:
            yield
        finally:
            self.enabled = before

    def remove(self) -> None:
        """Remove the forward hooks from the network, which then runs without the LoRA."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def tensors(self, prefix: str = PREFIX) -> dict[str, Tensor]:
        """Copies of all A and B under their official names, with the scale folded into B.

        ``prefix`` comes before the name of the layer.
        """
        tensors: dict[str, Tensor] = {}
        for name, pair in zip(self.names, self.pairs, strict=True):
            assert isinstance(pair, _Pair)
            tensors[f"{prefix}{name}.lora_A.weight"] = pair.a.detach().clone()
            # With the scale folded in, readers need no alpha.
            tensors[f"{prefix}{name}.lora_B.weight"] = pair.b.detach() * self.scale
        return tensors

    def _hook(self, pair: nn.Module) -> Any:
        def add(_layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return output + self.scale * pair(args[0]).to(output.dtype) if self.enabled else output

        return add


class _Pair(nn.Module):
    """The matrices A (R, I) and B (O, R) of one linear layer, in float32 on the layer's device.

    R is ``rank``, I and O are inputs and outputs of the layer; ``generator`` draws A, B starts at zero.
    """

    def __init__(self, layer: nn.Linear, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        # As PEFT initialises A: the Kaiming uniform distribution with a = sqrt(5).
        bound = math.sqrt(1 / layer.in_features)
        a = (torch.rand(rank, layer.in_features, generator=generator) * 2 - 1) * bound
        self.a = nn.Parameter(a.to(layer.weight.device))
        # B at zero leaves the network unchanged before the first step.
        self.b = nn.Parameter(torch.zeros(layer.out_features, rank, device=layer.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., I) -> B A x (..., O), for a layer of I inputs and O outputs."""
        return F.linear(F.linear(x.to(self.a.dtype), self.a), self.b)


def save_lora(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    *,
    dtype: torch.dtype = torch.bfloat16,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write the LoRA matrices ``tensors``, by name, to a safetensors file in ``dtype``, whole or not at all.

    ``metadata`` are strings for the header; that of an IC-LoRA has a ``reference_downscale_factor``.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Sorted, so that equal weights give equal files.
    stored = {name: tensor.to("cpu", dtype) for name, tensor in sorted(tensors.items())}
    write_tensors(path, stored, metadata)
