"""LoRA training: low-rank pairs beside frozen linear layers, saved in the official layout.

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
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ..media.atomic import replacing

ATTENTION = r"\.to_(q|k|v|out\.0)$"
"""Every attention of every block: what most LoRAs of LTX-2 train."""

ATTENTION_AND_FEED_FORWARD = r"\.(to_(q|k|v|out\.0)|net\.(0\.proj|2))$"

PREFIX = "diffusion_model."
"""What official LoRA files put in front of a module's name in the transformer or the connectors."""


class LoraAdapters(nn.Module):
    """Low-rank pairs for the linear layers of a network; its parameters are all that is trained.

    The network itself is not changed: each layer gets a hook that adds ``scale * B A x``, so the network is
    frozen here and can be used without them inside :meth:`disabled`. B starts at zero, so nothing changes
    before the first step.

    Raises ValueError where ``targets`` (a regular expression that is searched in module names) finds no
    linear layer.

    Args:
        network: its linear layers stay where they are; all of its parameters stop requiring gradients.
        rank: R.
        alpha: the change is scaled by alpha / R, by default 1. It is folded into B when saved.
        seed: of A.
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
        if not layers:
            raise ValueError(f"targets={targets!r} finds no linear layer in {type(network).__name__}")
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
        """The network as it is without the LoRA, such as the teacher of a distillation."""
        before, self.enabled = self.enabled, False
        try:
            yield
        finally:
            self.enabled = before

    def remove(self) -> None:
        """Take the hooks off the network."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def tensors(self, prefix: str = PREFIX) -> dict[str, Tensor]:
        """The pairs under their official names, detached, the scale folded into B."""
        tensors: dict[str, Tensor] = {}
        for name, pair in zip(self.names, self.pairs, strict=True):
            assert isinstance(pair, _Pair)
            tensors[f"{prefix}{name}.lora_A.weight"] = pair.a.detach().clone()
            tensors[f"{prefix}{name}.lora_B.weight"] = pair.b.detach() * self.scale
        return tensors

    def load_tensors(self, tensors: Mapping[str, Tensor], prefix: str = PREFIX) -> None:
        """Go on from saved pairs. Raises ValueError unless they are exactly those of this network."""
        own = self.tensors(prefix)
        if own.keys() != tensors.keys() or any(own[n].shape != tensors[n].shape for n in own):
            odd = sorted(own.keys() ^ tensors.keys()) or ["shapes differ"]
            raise ValueError(
                f"this LoRA does not fit: {', '.join(odd[:3])}; use the same network, rank and targets"
            )
        for name, pair in zip(self.names, self.pairs, strict=True):
            assert isinstance(pair, _Pair)
            pair.a.data.copy_(tensors[f"{prefix}{name}.lora_A.weight"])
            pair.b.data.copy_(tensors[f"{prefix}{name}.lora_B.weight"] / self.scale)

    def _hook(self, pair: nn.Module) -> Any:
        def add(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return output + self.scale * pair(args[0]).to(output.dtype) if self.enabled else output

        return add


class _Pair(nn.Module):
    def __init__(self, layer: nn.Linear, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        bound = math.sqrt(1 / layer.in_features)
        a = (torch.rand(rank, layer.in_features, generator=generator) * 2 - 1) * bound
        self.a = nn.Parameter(a.to(layer.weight.device))
        self.b = nn.Parameter(torch.zeros(layer.out_features, rank, device=layer.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O)."""
        return F.linear(F.linear(x.to(self.a.dtype), self.a), self.b)


def save_lora(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    *,
    dtype: torch.dtype = torch.bfloat16,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a LoRA file whole or not at all.

    The metadata of an IC-LoRA names its ``reference_downscale_factor``.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = {name: tensor.to("cpu", dtype).contiguous() for name, tensor in sorted(tensors.items())}
    with replacing(path) as temporary:
        save_file(stored, temporary, metadata=dict(metadata or {}) or None)
        temporary.chmod(0o644)  # safetensors makes files that only their owner can read
