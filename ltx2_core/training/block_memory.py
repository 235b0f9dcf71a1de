"""How blocks run in training: computed again in the backward pass, weights in system memory."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from ..transformer import Transformer


class BlockRunner:
    """Runs a block of the transformer and holds little for its backward pass.

    A block's activations are computed again in the backward pass; what is held of it are its inputs. With
    ``offload`` these wait in system memory. The weights of blocks whose numbers are in ``streamed`` lie in
    system memory, and are copied to ``device`` for the forward pass and again for the backward pass. Losses
    and gradients equal those of a network wholly on the device bit for bit.
    """

    def __init__(
        self, device: torch.device, *, offload: bool = False, streamed: Collection[int] = ()
    ) -> None:
        self.device, self.offload, self.streamed = device, offload, frozenset(streamed)

    def __call__(self, number: int, block: nn.Module, hidden: Any, inputs: Any, switches: Any) -> Any:
        run = partial(self._run, block, number in self.streamed, inputs, switches)
        if self.offload:
            # What checkpoint holds is what it is called with, so that only the copies in system memory stay.
            hidden = tuple(None if one is None else one.to("cpu") for one in hidden)
        return checkpoint(run, *hidden, use_reentrant=False)

    def _run(
        self, block: nn.Module, streamed: bool, inputs: Any, switches: Any, *hidden: Tensor | None
    ) -> Any:
        moved = [None if one is None else one.to(self.device) for one in hidden]
        if not streamed:
            return block(*moved, *inputs, switches)
        # Copies and not moved weights: the graph of the backward pass holds them until the block is done.
        copies = {
            name: tensor.detach().to(self.device, copy=True, non_blocking=tensor.is_pinned())
            for name, tensor in (*block.named_parameters(), *block.named_buffers())
        }
        return functional_call(block, copies, (*moved, *inputs, switches))


def streamed_numbers(blocks: int, count: int) -> tuple[int, ...]:
    """Numbers of ``count`` of ``blocks`` blocks, spread evenly, so that copies are spread over the step."""
    return tuple(sorted({int((n + 0.5) * blocks / count) for n in range(count)})) if count else ()


def place(network: Transformer, device: torch.device, streamed: Collection[int]) -> None:
    """Move all but the blocks ``streamed`` to ``device``, those to system memory."""
    blocks = list(network.transformer_blocks)
    for child in network.children():
        if child is not network.transformer_blocks:
            child.to(device)
    for parameter in network.parameters(recurse=False):
        parameter.data = parameter.data.to(device)
    for number, block in enumerate(blocks):
        block.to("cpu" if number in streamed else device)
