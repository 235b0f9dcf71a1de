"""Decoded frames on their way from a CUDA device to system memory, while the device decodes the next ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..media.images import bytes_and_finite, check_finite


class LeavingFrames:
    """Two pinned buffers, into which chunks of frames are copied in turn as bytes, on a stream of their own.

    At most two chunks may be under way. Where the system refuses pinned memory, the CPU waits for each chunk.
    """

    def __init__(self) -> None:
        self._buffers: list[Tensor] = []
        self._stream: Any = None

    def begin(self, frames: Tensor, *, first: int) -> Callable[[], Tensor]:
        """Convert frames (N, 3, H, W) in [-1, 1] on the device to uint8, and begin to copy them.

        Returns a function that waits for the copy and returns the frames, in memory that is not pinned.
        ``first`` is the number of the first frame. That function raises ValueError for values that are not
        finite; without pinned memory this one does, as it does for frames that are neither uint8 nor float.
        """
        converted, finite = bytes_and_finite(frames)
        flags = self._buffer(converted.numel() + finite.numel())
        if flags is None:
            check_finite(finite, first=first)
            return partial(_itself, converted.cpu())
        if self._stream is None:
            self._stream = torch.cuda.Stream(converted.device)
        # Computed here, since the other stream may read only tensors that are recorded for it below.
        sources = converted.contiguous().flatten(), finite.to(torch.uint8)
        computed = torch.cuda.current_stream(converted.device).record_event()
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(computed)
            parts = flags[: converted.numel()], flags[converted.numel() :][: finite.numel()]
            for target, source in zip(parts, sources, strict=True):
                target.copy_(source, non_blocking=True)
                # The allocator may use this memory again only when it has been copied.
                source.record_stream(self._stream)
            arrived = self._stream.record_event()
        return partial(self._arrived, arrived, flags, parts, converted.shape, first)

    def _arrived(
        self, arrived: Any, buffer: Tensor, parts: tuple[Tensor, Tensor], shape: torch.Size, first: int
    ) -> Tensor:
        arrived.synchronize()
        check_finite(parts[1].bool(), first=first)
        # A copy, since whoever holds all frames of a clip must not hold them in pinned memory.
        frames = parts[0].clone().view(shape)
        self._buffers.append(buffer)
        return frames

    def _buffer(self, size: int) -> Tensor | None:
        """A pinned buffer of at least ``size`` bytes; None if the system refuses it."""
        free = self._buffers.pop() if self._buffers else None
        if free is not None and len(free) >= size:
            return free
        try:
            return torch.empty(size, dtype=torch.uint8, pin_memory=True)
        except RuntimeError:
            return None


def _itself(frames: Tensor) -> Tensor:
    return frames
