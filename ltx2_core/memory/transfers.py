"""Copies of weights from system memory to a device, on CUDA beside the computation.

``Transfers`` is what block streaming needs of a device. ``InOrder`` serves every device on which a copy is
done when the call returns, or is ordered with the computation. ``Beside`` serves CUDA: a thread fills small
pinned buffers, and a CUDA stream of its own copies from there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import torch
from torch import Tensor

STAGING_BYTES = 64 * 2**20
"""Bytes of one pinned buffer. Few large copies reach the full rate of the bus; 64 MiB are enough for it."""

STAGING_COUNT = 4
"""Pinned buffers: while one is copied to the device the next ones are filled from system memory."""

PINNED_BYTES = STAGING_COUNT * STAGING_BYTES
"""All pinned memory of a run."""


class Copied(Protocol):
    """A copy that was asked for."""

    def wait(self) -> None:
        """Make the computation that follows wait for the copy, and raise what went wrong in it."""


class Transfers(Protocol):
    """What block streaming asks of a device. A *point* is a place in the order of the computation."""

    def copy(self, sources: Sequence[Tensor], targets: Sequence[Tensor], after: object) -> Copied:
        """Begin to copy each source into its target, not before the computation has passed ``after``.

        Sources and targets are pairs of equal shape, stride and dtype. ``after`` is what :meth:`point` has
        returned, or None to begin at once.
        """

    def point(self) -> object:
        """The present place in the order of the computation, None if the device needs none."""

    def close(self) -> None:
        """Wait for all copies, and return the memory that they need to PyTorch."""


class InOrder:
    """Copies that are done when the call returns, or that the device orders with its computation."""

    def copy(self, sources: Sequence[Tensor], targets: Sequence[Tensor], after: object) -> Copied:  # noqa: ARG002
        for source, target in zip(sources, targets, strict=True):
            target.copy_(source)
        return _Done()

    def point(self) -> object:
        return None

    def close(self) -> None:
        pass


class _Done:
    def wait(self) -> None:
        pass


class Beside:
    """Copies to a CUDA ``device`` while it computes.

    Weights may lie in memory that the system can swap out, or that maps a file. From there CUDA copies only
    while the caller waits, so a thread first moves them into pinned buffers. Pinned memory is scarce, so that
    there are ``STAGING_COUNT`` buffers however large the network is. Where the system refuses them, the
    thread copies without, at a lower rate, and ``pinned`` (bytes) is 0.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream: Any = torch.cuda.Stream(device)
        # Each with the event of the last copy out of it, None before the first.
        self._staging: deque[tuple[Tensor, Any]] = deque((buffer, None) for buffer in pinned_buffers())
        self.pinned = len(self._staging) * STAGING_BYTES
        # One thread, so that copies happen in the order in which they were asked for.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="weights")

    def copy(self, sources: Sequence[Tensor], targets: Sequence[Tensor], after: object) -> Copied:
        return _OnStream(self.device, self._thread.submit(self._copy, list(sources), list(targets), after))

    def point(self) -> object:
        return torch.cuda.current_stream(self.device).record_event()

    def close(self) -> None:
        self._thread.shutdown(wait=True)
        self._stream.synchronize()
        self._staging.clear()
        self.pinned = 0

    @torch.inference_mode()
    def _copy(self, sources: list[Tensor], targets: list[Tensor], after: Any) -> Any:
        with torch.cuda.device(self.device), torch.cuda.stream(self._stream):
            if after is not None:
                self._stream.wait_event(after)
            for source, target in zip(sources, targets, strict=True):
                if self._staging:
                    self._through_staging(as_bytes(source), as_bytes(target))
                else:
                    target.copy_(source)
            return self._stream.record_event()

    def _through_staging(self, source: Tensor, target: Tensor) -> None:
        for start in range(0, source.numel(), STAGING_BYTES):
            part = source[start : start + STAGING_BYTES]
            buffer, copied = self._staging.popleft()
            if copied is not None:
                # The last copy out of this buffer has to be over before it is filled again.
                copied.synchronize()
            staged = buffer[: part.numel()]
            staged.copy_(part)
            target[start : start + part.numel()].copy_(staged, non_blocking=True)
            self._staging.append((buffer, self._stream.record_event()))


class _OnStream:
    def __init__(self, device: torch.device, event: Future[Any]) -> None:
        self._device, self._event = device, event

    def wait(self) -> None:
        torch.cuda.current_stream(self._device).wait_event(self._event.result())


def transfers_to(device: torch.device) -> Transfers:
    """The way to copy weights to ``device``."""
    return Beside(device) if device.type == "cuda" else InOrder()


def as_bytes(tensor: Tensor) -> Tensor:
    """The memory of ``tensor``, which has no gaps between its values, as bytes (N,) in their order there."""
    return tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8)


def pinned_buffers() -> list[Tensor]:
    """New pinned buffers of ``STAGING_BYTES`` bytes; none where the system refuses pinned memory."""
    try:
        return [torch.empty(STAGING_BYTES, dtype=torch.uint8, pin_memory=True) for _ in range(STAGING_COUNT)]
    except RuntimeError:
        return []
