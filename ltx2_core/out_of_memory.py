"""Detects on any device that memory has run out, and repeats the work once before that is an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

_WORDS = ("out of memory", "defaultcpuallocator", "alloc_failed", "cannot allocate memory")

T = TypeVar("T")


class OutOfMemory(torch.OutOfMemoryError):
    """Raised if memory ran out and nothing else can be tried; the message is one line for the user."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` reports a failed allocation, by its class or by the words of its message."""
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


def attempt(doing: str, work: Callable[[], T], *, again: bool = True) -> T:
    """Return ``work()``; with ``again``, ``work`` is called a second time if memory ran out.

    Before that, cached memory is returned to the device; the second call may succeed where memory was
    fragmented, or used by another process for a moment. A failed call of ``work`` must not leave anything
    half done. If the last call runs out of memory too, raises :class:`OutOfMemory`, whose message says what
    the run was ``doing``, such as "sampling".
    """
    try:
        return work()
    except OutOfMemory:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        cause = _first_line(error)
    # Outside the except clause the error is gone, and with it the tensors that its traceback held.
    release_cached()
    if again:
        return attempt(doing, work, again=False)
    raise OutOfMemory(_advice(doing, cause))


@contextmanager
def clearly(doing: str) -> Iterator[None]:
    """A context that raises :class:`OutOfMemory` in place of any error of the block for lack of memory.

    The message says what the run was ``doing``, such as "sampling".
    """
    try:
        yield
    except OutOfMemory:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(_advice(doing, _first_line(error))) from error


def _advice(doing: str, cause: str) -> str:
    return (
        f"memory ran out while {doing}: use a smaller or shorter clip, a memory limit (--max-memory), or "
        f"free memory that other programs use ({cause})"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
