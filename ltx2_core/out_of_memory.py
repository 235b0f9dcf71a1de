"""Detecting that memory has run out, on any device, so that the caller can retry with less."""

from __future__ import annotations

import torch

_WORDS = ("out of memory", "defaultcpuallocator", "alloc_failed", "cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` reports a failed allocation; CUDA has a class for it, others only a message."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _WORDS)


def release_cached() -> None:
    """Return the CUDA allocator's cached memory to the device.

    Call it outside of the ``except`` block: until then the traceback still holds the tensors of the failed
    operation.
    """
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
