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

from ..storage.writing import write_tensors
from .adapters import ADAPTERS, Adapter, Kind, Linear

ATTENTION = r"\.to_(q|k|v|out\.0)$"
"""Targets: all attention layers of all blocks, as most LoRAs of LTX-2 have."""

ATTENTION_AND_FEED_FORWARD = r"\.(to_(q|k|v|out\.0)|net\.(0\.proj|2))$"
"""Targets: attention and feed-forward layers of all blocks."""

PREFIX = "diffusion_model."
"""Prefix of module names in official LoRA files."""
TEXT_PROJECTION = "text_embedding_projection."
"""Prefix of the names of the layers of the text projection, as in a checkpoint."""


def saved_name(layer: str) -> str:
    """The name in an official LoRA file of a layer of transformer, connectors or text projection.

    The projection has the name by which ComfyUI finds it, in the text encoder; official files have none of
    it.
    """
    if not layer.startswith(TEXT_PROJECTION):
        return PREFIX + layer
    # ComfyUI has the only projection of 2.0 without its last name.
    return "text_encoders." + (
        TEXT_PROJECTION[:-1] if layer == f"{TEXT_PROJECTION}aggregate_embed" else layer
    )


class LoraAdapters(nn.Module):
    """Adapters for linear layers of a network; their matrices are the parameters of this module.

    Each layer, plain or quantised, gets a forward hook that adds ``scale * B A x``; its weights do not
    change, and :meth:`disabled` runs the network without the LoRA. B starts at zero, so the output is
    unchanged before the first step.

    Args:
        network: the network to adapt; all its parameters stop requiring gradients.
        rank: rank R of every pair.
        alpha: the pairs are scaled by alpha / R; by default alpha is R. The scale is folded into B when
            saved.
        kind: "lora", "dora" or "lokr".
        rank_stabilised: scale by alpha / sqrt(R) instead (Kalajdzievski, 2023).
        dropout: share of the inputs of A that are zero in training, from 0 to below 1. The masks follow from
            :attr:`draw`, so that recomputed activations and resumed runs have the same.
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
        kind: Kind = "lora",
        rank_stabilised: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"rank={rank} must be at least 1")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} must be from 0 to below 1")
        pattern = re.compile(targets)
        layers = {
            name: module
            for name, module in network.named_modules()
            if isinstance(module, Linear) and pattern.search(name)
        }
        # An empty LoRA would train nothing and report no error.
        if not layers:
            raise ValueError(f"targets={targets!r} matches no linear layer in {type(network).__name__}")
        # Gradients of the frozen weights would take as much memory as the weights.
        network.requires_grad_(False)
        generator = torch.Generator().manual_seed(seed)
        self.scale = (rank if alpha is None else alpha) / (math.sqrt(rank) if rank_stabilised else rank)
        self.enabled, self.dropout = True, dropout
        self.draw = 0
        """Number of the forward pass in training, from which the masks of dropout follow."""
        self.names = tuple(layers)
        self.pairs = nn.ModuleList(
            ADAPTERS[kind](layer, rank, self.scale, generator) for layer in layers.values()
        )
        self._handles = []
        for number, layer in enumerate(layers.values()):
            adapter = self.pairs[number]
            assert isinstance(adapter, Adapter)
            self._handles.append(layer.register_forward_hook(self._hook(adapter, number)))
            if kind == "dora":
                self._handles.append(layer.register_forward_pre_hook(self._pre_hook(adapter)))

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
        return {
            f"{prefix}{name}.{ending}": tensor
            for name, adapter in self.by_layer()
            for ending, tensor in adapter.tensors().items()
        }

    def by_layer(self) -> Iterator[tuple[str, Adapter]]:
        """Yield (name of the layer, its adapter)."""
        for name, adapter in zip(self.names, self.pairs, strict=True):
            assert isinstance(adapter, Adapter)
            yield name, adapter

    def _hook(self, adapter: Adapter, number: int) -> Any:
        def add(_layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if not self.enabled:
                return output
            added: Tensor = adapter(self._dropped(args[0], number))
            return output + added.to(output.dtype)

        return add

    def _pre_hook(self, adapter: Adapter) -> Any:
        def change(layer: Linear, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (adapter.changed_input(args[0], layer), *args[1:]) if self.enabled else args

        return change

    def _dropped(self, x: Tensor, number: int) -> Tensor:
        """``x`` with a share of its values zero and the others larger by as much; only in training."""
        if not self.dropout or not torch.is_grad_enabled():
            return x
        # A generator for each layer, as activations that are computed again come in another order.
        generator = torch.Generator(x.device).manual_seed(self.draw * len(self.names) + number)
        kept = torch.rand(x.shape, generator=generator, device=x.device) >= self.dropout
        return x * kept / (1 - self.dropout)


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
