"""Computes on a pretended CUDA device; refuses what CUDA refuses, and counts where the CPU waits."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from typing import Any

import torch
from fake_copies import Pending, Pinned
from fake_graph import Graph
from fake_tensor import CPU, DeviceError, DeviceTensor, values
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

TESTED = ("ltx2_core/", "nodes/")
"""Folders whose lines are named as the places of waits."""

WAITS = frozenset(
    [
        "_local_scalar_dense",
        "item",
        "equal",
        "is_nonzero",
        "nonzero",
        "masked_select",
        "bincount",
        "histc",
        "allclose",
        "_unique",
        "_unique2",
        "unique_dim",
        "unique_consecutive",
    ]
)
"""Operations that return a number, or a size that depends on values, for which the CPU waits."""

INDEXING = frozenset(("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"))
MOVES = frozenset(("_to_copy", "to", "_copy_from", "lift_fresh", "lift"))


class FakeDevice(TorchDispatchMode):
    """The pretended device.

    ``waits`` counts how often the thread that switched it on waited: (why, line) -> times. ``kernels`` counts
    operations on the device, ``masked`` calls of attention with a mask.
    """

    def __init__(self, *, narrow: bool = False) -> None:
        super().__init__()
        self.narrow = narrow
        """Whether the device lacks float64 and complex numbers."""
        self.waits: Counter[tuple[str, str]] = Counter()
        self.kernels: Counter[str] = Counter()
        self.masked = 0
        self.graph: Graph | None = None
        """The graph that is being recorded."""
        self.graphs: list[Graph] = []
        self.pinned = Pinned()
        self.pending = Pending()
        self._thread = threading.get_ident()

    def wait(self, why: str, point: int | None = None) -> None:
        """The CPU waits for the copies before ``point``, or for all."""
        if self.graph is not None:
            raise DeviceError(f"operation not permitted when stream is capturing: {why} at {place()}")
        # Another thread that waits does not keep this one from launching kernels.
        if threading.get_ident() == self._thread:
            self.waits[why, place()] += 1
        self.pending.wait(point)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Compute ``func``, an operation of PyTorch, on the device or on the CPU."""
        name = func._schema.name.rpartition("::")[2]
        if name == "_has_compatible_shallow_copy_type":
            return isinstance(args[0], DeviceTensor) == isinstance(args[1], DeviceTensor)
        if name == "copy_":
            return self._copy_into(func, *args, **kwargs)
        if name in MOVES:
            return self._moved(func, args, dict(kwargs))
        flat, spec = tree_flatten((args, kwargs))
        ours = [t for t in flat if isinstance(t, DeviceTensor)]
        asked = next((torch.device(a) for a in flat if isinstance(a, torch.device)), None)
        there = bool(ours) if asked is None else asked.type == "cuda"
        if ours:
            self._check(name, func, args, flat)
        plain = [CPU if isinstance(a, torch.device) and there else values(a) for a in flat]
        own_args, own_kwargs = tree_unflatten(plain, spec)
        if own_kwargs.pop("pin_memory", None):
            return self._pin(func(*own_args, **own_kwargs))
        if there and self.narrow:
            _refuse_wide(func, flat)
        out = _ON_CUDA.get(name, lambda func, args, kwargs: func(*args, **kwargs))(func, own_args, own_kwargs)
        if not there:
            return out
        self.count(name, func, own_args, own_kwargs, out, mutable=func._schema.is_mutable)
        known = {id(t.host): t for t in ours}
        return tree_map(lambda t: known[id(t)] if id(t) in known else _wrapped(t), out)

    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy of ``tensor`` in pinned memory."""
        return self._pin(tensor.clone())

    def _pin(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.graph is not None:
            raise DeviceError(f"operation not permitted when stream is capturing: pinning at {place()}")
        return self.pinned.add(tensor)

    def count(self, name: str, func: Any, args: Any, kwargs: Any, out: Any, *, mutable: bool) -> None:
        """Count an operation on the device, and record it in the graph if there is one."""
        self.kernels[name] += 1
        if self.graph is not None:
            self.graph.add(func, args, kwargs, out, mutable=mutable)

    def _check(self, name: str, func: Any, args: Any, flat: list[Any]) -> None:
        """Refuse tensors of the CPU that are more than numbers; count operations that wait."""
        if name in WAITS or (name == "repeat_interleave" and func._overloadname != "self_int"):
            self.wait(name)
        others = [t for t in flat if isinstance(t, torch.Tensor) and not isinstance(t, DeviceTensor)]
        declared = zip(args, func._schema.arguments, strict=False)
        written = [a for a, own in declared if own.alias_info is not None and own.alias_info.is_write]
        refused = [t for t in others if t.dim() or any(t is w for w in written)]
        if name in INDEXING:
            refused = [t for t in refused if not any(t is index for index in args[1])]
            self._check_indices(func, args)
        if refused:
            shapes = [f"{tuple(t.shape)} on {t.device}" for t in flat if isinstance(t, torch.Tensor)]
            raise DeviceError(f"{func}: tensors of two devices: {', '.join(shapes)}, at {place()}")

    def _check_indices(self, func: Any, args: Any) -> None:
        for index in args[1]:
            if not isinstance(index, torch.Tensor):
                continue
            if index.dtype in (torch.bool, torch.uint8):
                self.wait("indexed by a mask")
            elif isinstance(args[0], DeviceTensor) and not isinstance(index, DeviceTensor):
                self.wait("indexed from the CPU")
            elif isinstance(index, DeviceTensor) and not isinstance(args[0], DeviceTensor):
                raise DeviceError(f"{func}: the indices are on cuda:0 and the tensor is not, at {place()}")

    def _copy_into(self, func: Any, target: Any, source: Any, non_blocking: bool = False) -> Any:
        there, from_there = isinstance(target, DeviceTensor), isinstance(source, DeviceTensor)
        host = source if there else target
        quiet = non_blocking and not isinstance(host, DeviceTensor) and self.pinned.has(host)
        if there == from_there or not source.numel():
            values(target).copy_(values(source))
        elif quiet and from_there:
            self.pending.to_host(target, source.host)
        else:
            if source.dim() or from_there:
                self._transfer(to_device=there, quiet=quiet or (there and non_blocking))
            target_values = values(target)
            target_values.copy_(values(source))
            if quiet:
                self.pending.from_host(source, place())
        if there:
            self.count("copy_", func, (target.host, values(source)), {}, target.host, mutable=True)
        return target

    def _moved(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """``to`` in its forms."""
        source, rest = args[0], tree_leaves((args[1:], kwargs))
        # The device of an argument that is another tensor counts as well.
        devices = (a.device if isinstance(a, torch.Tensor) else a for a in rest)
        asked = next((d for d in devices if isinstance(d, torch.device)), None)
        was = isinstance(source, DeviceTensor)
        there = was if asked is None else asked.type == "cuda"
        if was != there and source.numel() and (asked is None or asked.type != "meta"):
            # To the CPU this gives pinned memory that nobody waits for, which is an error unless they do.
            self._transfer(to_device=there, quiet=there and _asks_not_to_block(func, args, kwargs))
        own_args, own_kwargs = tree_map(
            lambda a: CPU if isinstance(a, torch.device) and a.type == "cuda" else values(a),
            (tuple(args), kwargs),
        )
        own_kwargs.pop("pin_memory", None)
        out = func(*own_args, **own_kwargs)
        if there and self.narrow:
            _refuse_wide(func, [out])
        if not there:
            return out.clone() if was and out is source.host else out
        self.count("_to_copy", func, own_args, own_kwargs, out, mutable=False)
        return source if was and out is source.host else _wrapped(out)

    def _transfer(self, *, to_device: bool, quiet: bool) -> None:
        if self.graph is not None:
            raise DeviceError(f"operation not permitted when stream is capturing: a copy at {place()}")
        if not quiet:
            self.wait("CPU to device" if to_device else "device to CPU")


def _by_rows(func: Any, args: Any, kwargs: dict[str, Any]) -> torch.Tensor:
    """The fp8 product with a scale for each row, which the CPU has only with one scale for all."""
    named = {**dict(zip((a.name for a in func._schema.arguments), args, strict=False)), **kwargs}
    product = (named["self"].float() * named["scale_a"]) @ (named["mat2"].float() * named["scale_b"])
    bias = named.get("bias")
    return (product if bias is None else product + bias).to(named.get("out_dtype") or named["self"].dtype)


def _flash(_func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The attention that also returns the logarithms of its sums, which has another name on the CPU."""
    scale = kwargs["scale"]
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*args[:3], scale=scale)


def _with_gelu(_func: Any, args: Any, _kwargs: dict[str, Any]) -> torch.Tensor:
    """The product with a GELU, which only CUDA computes in the tanh form."""
    return torch.ops.aten.gelu(torch.addmm(*args[:3]), approximate="tanh")


_ON_CUDA = {
    "_scaled_mm": _by_rows,
    "_scaled_dot_product_flash_attention": _flash,
    "_addmm_activation": _with_gelu,
}
"""Operations that the CPU lacks, or computes in another way."""


def _refuse_wide(func: Any, given: list[Any]) -> None:
    """Refuse what Apple's GPUs lack."""
    dtypes = [a if isinstance(a, torch.dtype) else getattr(a, "dtype", None) for a in given]
    if any(dtype is not None and (dtype.is_complex or dtype == torch.float64) for dtype in dtypes):
        raise DeviceError(f"{func}: this device has no float64 and no complex numbers, at {place()}")


def _asks_not_to_block(func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    names = [argument.name for argument in func._schema.arguments]
    return bool({**dict(zip(names, args, strict=False)), **kwargs}.get("non_blocking"))


def _wrapped(value: Any) -> Any:
    plain = isinstance(value, torch.Tensor) and not isinstance(value, DeviceTensor)
    return DeviceTensor(value) if plain else value


def place() -> str:
    """The innermost line of the project that is running."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename.replace("\\", "/")
        for folder in TESTED:
            if f"/{folder}" in path and "/tests/" not in path:
                return f"{folder}{path.rpartition(f'/{folder}')[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"
