"""Block streaming, for a transformer larger than the device: blocks are copied while earlier ones compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..transformer import Transformer
from .transfers import Copied, Transfers, transfers_to

_ALIGNMENT = 256
"""Bytes to which each tensor of a block is aligned on the device, as CUDA's allocator does."""


@dataclass(eq=False)
class _Slot:
    """Memory on the device for one streamed block; it may be overwritten after the point ``free``."""

    memory: Tensor
    free: object = None


class BlockStreaming:
    """Holds ``resident`` blocks of ``transformer`` on ``device`` and streams the others to it.

    All that is not a block is moved to the device too. Resident blocks are spread evenly among the streamed
    ones, because while they compute there is time to copy. The device holds at most two streamed blocks, the
    one that computes and the next one, in two pieces of memory of a fixed size: a copy begins when the block
    that was there before has been computed. The originals of their weights stay in system memory, or in a
    memory-mapped file. Results equal those of a transformer wholly on the device bit for bit. Do not move the
    transformer before :meth:`close`.

    ``transfers`` makes the copies; None takes what suits the device. Raises ValueError if ``resident`` is
    negative or more than the number of blocks.
    """

    def __init__(
        self,
        transformer: Transformer,
        device: torch.device | str,
        *,
        resident: int,
        transfers: Transfers | None = None,
    ) -> None:
        blocks = list(transformer.transformer_blocks)
        if not 0 <= resident <= len(blocks):
            raise ValueError(
                f"resident must be from 0 to {len(blocks)}, the number of blocks; got {resident}"
            )
        self.device = torch.device(device)
        self._transfers = transfers_to(self.device) if transfers is None else transfers
        numbers = streamed_blocks([_offsets(block)[-1] for block in blocks], resident)
        self._streamed = [blocks[number] for number in numbers]
        self._place_rest(transformer, [block for block in blocks if block not in self._streamed])
        size = max((_offsets(block)[-1] for block in self._streamed), default=0)
        self._slots = [
            # Memory of the allocator may still be used by what was computed before.
            _Slot(torch.empty(size, dtype=torch.uint8, device=self.device), self._transfers.point())
            for _ in range(min(2, len(self._streamed)))
        ]
        self._home: dict[nn.Module, tuple[_Slot, list[Tensor]]] = {}
        self._ahead: dict[nn.Module, tuple[_Slot, list[Tensor], Copied]] = {}
        self._hooks = [
            hook
            for block in self._streamed
            for hook in (
                block.register_forward_pre_hook(self._enter),
                # always_call, because an interrupted run must get its weights back too.
                block.register_forward_hook(self._leave, always_call=True),
            )
        ]

    def close(self) -> None:
        """Remove the hooks by which blocks are streamed, and free the memory that they need.

        Every streamed block then has its weights in system memory again.
        """
        for hook in self._hooks:
            hook.remove()
        # An interrupted pass may have left a block on the device.
        for block in list(self._home):
            self._return(block)
        self._transfers.close()
        self._ahead.clear()
        self._slots.clear()

    def _place_rest(self, transformer: Transformer, resident: list[nn.Module]) -> None:
        for child in transformer.children():
            if child is not transformer.transformer_blocks:
                child.to(self.device)
        # Tables of modulation parameters belong to the transformer itself, not to a child.
        for parameter in transformer.parameters(recurse=False):
            parameter.data = parameter.data.to(self.device)
        for block in resident:
            block.to(self.device)

    def _enter(self, block: nn.Module, _args: object) -> None:
        """Before ``block`` runs: replace its weights by copies on the device; start copying the next one."""
        if block not in self._ahead:
            # The first forward pass, or blocks that run in another order than they are stored.
            self._ahead.clear()
            self._fetch(block)
        slot, copies, arrived = self._ahead.pop(block)
        arrived.wait()
        tensors = _tensors(block)
        # Weights are never copied back: nothing changes them in a forward pass.
        self._home[block] = (slot, [tensor.data for tensor in tensors])
        for tensor, copy in zip(tensors, copies, strict=True):
            tensor.data = copy
        # After the last block comes the first one again, for the next forward pass.
        following = self._streamed[(self._streamed.index(block) + 1) % len(self._streamed)]
        # A single streamed block has no next one, and must not be fetched into itself.
        if following is not block:
            self._fetch(following)

    def _leave(self, block: nn.Module, _args: object, _output: object) -> None:
        self._return(block)

    def _fetch(self, block: nn.Module) -> None:
        """Begin to copy ``block`` into the memory that the block which computes now does not have."""
        taken = {id(slot) for slot, _ in self._home.values()}
        slot = next(slot for slot in self._slots if id(slot) not in taken)
        sources = [tensor.data for tensor in _tensors(block)]
        copies = [
            slot.memory[start : start + source.nbytes]
            .view(source.dtype)
            .as_strided(source.shape, source.stride())
            for start, source in zip(_offsets(block), sources, strict=False)
        ]
        self._ahead[block] = (slot, copies, self._transfers.copy(sources, copies, slot.free))

    def _return(self, block: nn.Module) -> None:
        slot, home = self._home.pop(block, (None, []))
        if slot is not None:
            slot.free = self._transfers.point()
            for tensor, data in zip(_tensors(block), home, strict=True):
                tensor.data = data


def streamed_blocks(sizes: Sequence[int], resident: int) -> list[int]:
    """The numbers of the blocks that are streamed if ``resident`` stay on the device, in their order.

    ``sizes`` are the bytes of the blocks. Blocks larger than most stay on the device first (in fp8
    checkpoints the first and the last block are in 16 bits), since the memory for a streamed block has the
    size of the largest one. The others are streamed at even distances.
    """
    ordinary = sorted(sizes)[len(sizes) // 2] if sizes else 0
    large = [number for number, size in enumerate(sizes) if size > ordinary][:resident]
    rest = [number for number in range(len(sizes)) if number not in large]
    count = len(sizes) - resident
    return [rest[(2 * i + 1) * len(rest) // (2 * count)] for i in range(count)]


def _offsets(block: nn.Module) -> list[int]:
    """Where each tensor of ``block`` begins in its memory on the device and the last ends, in bytes."""
    offsets = [0]
    for tensor in _tensors(block):
        offsets.append(offsets[-1] + -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT)
    return offsets


def _tensors(block: nn.Module) -> list[Tensor]:
    # Buffers count as well, since quantised layers hold their weights in them.
    return [*block.parameters(), *block.buffers()]
