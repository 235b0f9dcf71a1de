"""Telling that memory has run out, whatever the device, so that less can be tried."""

from __future__ import annotations

import torch

_WORDS = ("out of memory", "defaultcpuallocator", "alloc_failed", "cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that an allocation failed: CUDA has a class for it, others say so in words."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _WORDS)


def release_cached() -> None:
    """Give what the allocator holds in reserve back, once the error and its traceback are gone."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
