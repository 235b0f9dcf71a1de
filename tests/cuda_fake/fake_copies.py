"""Copies between system memory and the pretended device, which are done as late as CUDA may do them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from fake_tensor import DeviceError
from torch import Tensor


class Pinned:
    """Which system memory is pinned. It is held, so that no other tensor comes to lie there."""

    def __init__(self) -> None:
        self._tensors: dict[int, Tensor] = {}

    def add(self, tensor: Tensor) -> Tensor:
        self._tensors[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    def has(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self._tensors


class Pending:
    """Copies that were asked for and that nobody has waited for yet, in their order.

    Until then a target in system memory holds rubbish, and a source there must not be written.
    """

    def __init__(self) -> None:
        self._copies: list[Callable[[], None]] = []
        self._done = 0
        self._lock = threading.RLock()

    def to_host(self, target: Tensor, source: Tensor) -> None:
        """Copy ``source`` as it is now into ``target`` when somebody waits."""
        now = source.detach().to(target.dtype, copy=True).expand(target.shape)
        _spoil(target)
        self._add(lambda: target.copy_(now))

    def from_host(self, source: Tensor, place: str) -> None:
        """Remember ``source``, which has been copied: it has to be the same when somebody waits."""
        now = source.clone()

        def check() -> None:
            if not torch.equal(_bytes(source), _bytes(now)):
                raise DeviceError(f"pinned memory was overwritten while it was copied to the device: {place}")

        self._add(check)

    def point(self) -> int:
        """The number of copies that were asked for so far."""
        with self._lock:
            return self._done + len(self._copies)

    def wait(self, point: int | None = None) -> None:
        """Finish the copies before ``point``; None finishes all."""
        with self._lock:
            count = len(self._copies) if point is None else max(0, point - self._done)
            due, self._copies = self._copies[:count], self._copies[count:]
            self._done += len(due)
            for copy in due:
                copy()

    def _add(self, copy: Callable[[], Any]) -> None:
        with self._lock:
            self._copies.append(copy)


def _spoil(target: Tensor) -> None:
    """Write what no result looks like."""
    if target.is_floating_point():
        target.fill_(float("nan"))
    else:
        target.fill_(113)


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)
