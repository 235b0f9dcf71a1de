"""Tracing of memory and operations of a computation; on the meta device this allocates nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves


class Trace(TorchDispatchMode):
    """Context that counts the bytes of all tensors created inside, for as long as each of them is alive.

    Tensors that existed before, such as weights, count only if passed as ``held``. Views and in-place results
    count once. On the meta device attention and RMS norm count as fused kernels, as on accelerators: only
    their result is counted. Workspace inside kernels is not counted. A meta tensor moved to the CPU becomes a
    meta tensor that stands for one in system memory: it does not count until it is moved to "meta" again.

    ``limit`` simulates a device of that many bytes: an operation that would exceed it raises
    ``torch.OutOfMemoryError``, and its result is freed. None is no limit.

    Under ``torch.inference_mode()`` an operation is one call (``linear``, ``rms_norm``); under ``no_grad``
    torch splits such calls into smaller operations first, and each of them counts.

    >>> with torch.inference_mode(), Trace() as trace:
    ...     with trace.stage("first"):
    ...         network(x)
    >>> trace.peak, trace.stages["first"], trace.operations
    """

    def __init__(self, held: Iterable[Tensor] = (), *, limit: int | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.limit = limit
        self.refused = 0
        """How often an operation went over the limit."""
        self.peak = 0
        """Most bytes alive at once."""
        self.operations: Counter[str] = Counter()
        """Calls by name, views included."""
        self.stages: dict[str, int] = {}
        """Most bytes alive at once within each stage."""
        self._stage: list[str] = []
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self._held = 0
        """Bytes of ``_alive``, of which some may be dead: never less than are alive."""
        self._fused = _Fused(self)
        for tensor in held:
            self.hold(tensor)

    @property
    def live(self) -> int:
        """Bytes of all counted tensors that are alive now."""
        # Storages die without notice, so dead ones are dropped whenever the sum is read.
        self._forget()
        return self._held

    def hold(self, tensor: Tensor) -> None:
        """Count the bytes of ``tensor``, which existed before, for as long as it is alive."""
        storage = tensor.untyped_storage()
        _, before = self._alive.get(storage._cdata, (None, 0))
        self._held += storage.nbytes() - before
        # The weak reference prevents that the address is reused for another storage while it is a key.
        self._alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Context that records the most bytes alive at once inside it in ``stages[name]``.

        If the same name is entered again, the larger number stays.
        """
        self._stage.append(name)
        self._note(self.live)
        try:
            yield
        finally:
            self._note(self.live)
            self._stage.pop()

    def __enter__(self) -> Trace:
        self._fused.__enter__()  # type: ignore[no-untyped-call]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._fused.__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Views and in-place results share the storage of an input and are no new memory.
        inputs = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        out = func(*args, **(kwargs or {}))
        outputs = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        self.record(
            func.overloadpacket.__name__, [t for t in outputs if t.untyped_storage()._cdata not in inputs]
        )
        return out

    def record(self, name: str, created: Iterable[Tensor]) -> None:
        """Count one call of operation ``name`` and the tensors that it created.

        Raises torch.OutOfMemoryError if more than ``limit`` bytes are then alive.
        """
        self.operations[name] += 1
        for tensor in created:
            self.hold(tensor)
        marks = [self.peak, *(self.stages.get(name, 0) for name in self._stage)]
        # To look for the dead at every operation takes most of the time of a trace.
        if self._held <= min(marks if self.limit is None else (*marks, self.limit)):
            return
        live = self.live
        if self.limit is not None and live > self.limit:
            self.refused += 1
            raise torch.OutOfMemoryError(f"{name} would leave {live} bytes alive of {self.limit}")
        self._note(live)

    def _note(self, live: int) -> None:
        self.peak = max(self.peak, live)
        for name in self._stage:
            self.stages[name] = max(self.stages.get(name, 0), live)

    def _forget(self) -> None:
        gone = [at for at, (reference, _) in self._alive.items() if reference.expired()]
        for at in gone:
            self._held -= self._alive.pop(at)[1]


class _Fused(TorchFunctionMode):
    """Counts attention and RMS norm on the meta device as one operation each; torch would split them.

    Also makes meta tensors that are moved to the CPU stand for tensors in system memory, see :class:`Trace`.
    """

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self._trace = trace
        self._offloaded: dict[int, StorageWeakRef] = {}
        """Storages of meta tensors that stand for tensors in system memory."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            q, v = args[0] if args else kwargs["query"], args[2] if len(args) > 2 else kwargs["value"]
            if q.is_meta:
                # The memory layout of the fused kernels, in which all heads of a token are adjacent.
                shape = (q.shape[0], q.shape[2], q.shape[1], v.shape[-1])
                out = self._created("scaled_dot_product_attention", shape, q.dtype)
                with _disable_current_modes():
                    return out.transpose(1, 2)
        elif func in _RMS_NORMS and args[0].is_meta:
            return self._created("rms_norm", args[0].shape, args[0].dtype)
        elif func is Tensor.to and args[0].is_meta and (device := _device(args[1:], kwargs)) is not None:
            moved = self._moved(args[0], device, _dtype(args[1:], kwargs) or args[0].dtype)
            return func(*args, **kwargs) if moved is None else moved
        elif func in _LIKE and args[0].is_meta and self._is_offloaded(args[0]):
            with _disable_current_modes():
                return self._offload(func(*args, **kwargs))
        return func(*args, **kwargs)

    def _moved(self, x: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor | None:
        """Replace ``x.to(device, dtype)`` of the meta tensor ``x``, and return the moved meta tensor.

        None if it is neither moved to the CPU nor back to "meta".
        """
        if device.type == "meta" and self._is_offloaded(x):
            return self._created("to", x.shape, dtype)
        if device.type != "cpu":
            return None
        with _disable_current_modes():
            return self._offload(torch.empty_like(x, dtype=dtype))

    def _is_offloaded(self, x: Tensor) -> bool:
        reference = self._offloaded.get(x.untyped_storage()._cdata)
        return reference is not None and not reference.expired()

    def _offload(self, x: Tensor) -> Tensor:
        """Note that the meta tensor ``x`` stands for one in system memory, and return it."""
        storage = x.untyped_storage()
        self._offloaded[storage._cdata] = StorageWeakRef(storage)
        return x

    def _created(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        with _disable_current_modes():
            out = torch.empty(shape, dtype=dtype, device="meta")
        self._trace.record(name, [out])
        return out


def _device(args: Sequence[Any], kwargs: dict[str, Any]) -> torch.device | None:
    """The device that the arguments of ``Tensor.to`` name; None if they name only a dtype, or a tensor."""
    named = kwargs.get("device", args[0] if args else None)
    return torch.device(named) if isinstance(named, str | torch.device) else None


def _dtype(args: Sequence[Any], kwargs: dict[str, Any]) -> torch.dtype | None:
    """The dtype that the arguments of ``Tensor.to`` name, if they name one."""
    named = (*args, kwargs.get("dtype"))
    return next((value for value in named if isinstance(value, torch.dtype)), None)


_RMS_NORMS = (F.rms_norm, torch.rms_norm)
_LIKE = (Tensor.new_empty, Tensor.new_zeros)
