"""Block streaming, for a transformer larger than the device: blocks are copied while earlier ones compute."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ..transformer import Transformer


class BlockStreaming:
    """Holds the first ``resident`` blocks of ``transformer`` on ``device`` and streams the others to it.

    All that is not a block is moved to the device too. At most two streamed blocks are on the device at once:
    the one that computes and the next one. The originals of their weights stay in system memory, or in a
    memory-mapped file. ``pin`` (None: True for CUDA) first copies these to pinned memory, from which CUDA can
    copy while it computes. Results equal those of a transformer wholly on the device bit for bit. Do not move
    the transformer before :meth:`close`.

    Raises ValueError if ``resident`` is negative or more than the number of blocks.
    """

    def __init__(
        self,
        transformer: Transformer,
        device: torch.device | str,
        *,
        resident: int,
        pin: bool | None = None,
    ) -> None:
        blocks = list(transformer.transformer_blocks)
        if not 0 <= resident <= len(blocks):
            raise ValueError(
                f"resident must be from 0 to {len(blocks)}, the number of blocks; got {resident}"
            )
        self.device = torch.device(device)
        self._cuda = self.device.type == "cuda"
        # Copies run on a stream of their own, next to the computation.
        self._copying: Any = torch.cuda.Stream(self.device) if self._cuda else None
        self._streamed = blocks[resident:]
        self._place_rest(transformer, blocks[:resident])
        # Only the streamed blocks, since pinned memory cannot be swapped out and is scarce.
        if self._cuda if pin is None else pin:
            for tensor in chain.from_iterable(map(_tensors, self._streamed)):
                # Only from pinned memory does CUDA copy without blocking.
                tensor.data = tensor.data.pin_memory()
        self._home: dict[nn.Module, list[Tensor]] = {}
        self._ahead: dict[nn.Module, tuple[list[Tensor], Any]] = {}
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
        """Remove the hooks by which blocks are streamed.

        Every streamed block then has its weights in system memory again.
        """
        for hook in self._hooks:
            hook.remove()
        # An interrupted pass may have left a block on the device.
        for block in list(self._home):
            self._return(block)
        self._ahead.clear()

    def _place_rest(self, transformer: Transformer, resident: list[nn.Module]) -> None:
        for child in transformer.children():
            if child is not transformer.transformer_blocks:
                child.to(self.device)
        # Tables of modulation parameters belong to the transformer itself, not to a child.
        for parameter in transformer.parameters(recurse=False):
            parameter.data = parameter.data.to(self.device)
        for block in resident:
            block.to(self.device)

    def _enter(self, block: nn.Module, _args: Any) -> None:
        """Before ``block`` runs: replace its weights by copies on the device; start copying the next one."""
        if block not in self._ahead:
            # The first forward pass, or blocks that run in another order than they are stored.
            self._ahead.clear()
            self._fetch(block)
        copies, arrived = self._ahead.pop(block)
        if arrived is not None:
            now = torch.cuda.current_stream(self.device)
            now.wait_event(arrived)
            # The allocator must not reuse the copies, made on another stream, before this one is done.
            for copy in copies:
                copy.record_stream(now)
        tensors = _tensors(block)
        # Weights are never copied back: nothing changes them in a forward pass.
        self._home[block] = [tensor.data for tensor in tensors]
        for tensor, copy in zip(tensors, copies, strict=True):
            tensor.data = copy
        # After the last block comes the first one again, for the next forward pass.
        following = self._streamed[(self._streamed.index(block) + 1) % len(self._streamed)]
        # A single streamed block has no next one, and must not be fetched into itself.
        if following is not block:
            self._fetch(following)

    def _leave(self, block: nn.Module, _args: Any, _output: Any) -> None:
        self._return(block)

    def _fetch(self, block: nn.Module) -> None:
        if not self._cuda:
            # Without streams the copy is complete when the call returns.
            self._ahead[block] = (
                [tensor.data.to(self.device, copy=True) for tensor in _tensors(block)],
                None,
            )
            return
        with torch.cuda.stream(self._copying):
            # Not blocking, so that the current block computes meanwhile.
            copies = [tensor.data.to(self.device, non_blocking=True) for tensor in _tensors(block)]
            self._ahead[block] = (copies, self._copying.record_event())

    def _return(self, block: nn.Module) -> None:
        home = self._home.pop(block, None)
        if home is not None:
            for tensor, data in zip(_tensors(block), home, strict=True):
                tensor.data = data


def _tensors(block: nn.Module) -> list[Tensor]:
    # Buffers count as well, since quantised layers hold their weights in them.
    return [*block.parameters(), *block.buffers()]
