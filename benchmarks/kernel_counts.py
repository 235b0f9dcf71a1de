"""Kernels that a GPU would start, and the bytes that they would move, counted on the meta device."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from ltx2_core.kernels.gelu_product import Layer
from ltx2_core.kernels.trial import Kernel
from ltx2_core.transformer.fused import Fused
from ltx2_core.video_vae.windows import Windows

PRODUCTS = frozenset(
    (
        "gelu_product",
        "output_product",
        "mm",
        "addmm",
        "addmm_",
        "bmm",
        "baddbmm",
        "convolution",
        "attention",
        "_scaled_mm",
    )
)
FREE = ("empty", "new_empty", "_has_compatible", "detach", "lift", "alias")
"""Beginnings of the names of operations that start no kernel."""


class Counts(TorchDispatchMode):
    """Context that counts ``kernels``, and bytes read and written by products (with attention) and others.

    A view starts no kernel. Attention and RMS norm are one kernel each. What one kernel reads twice counts
    once, so that no cache of the GPU is assumed to fail.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels = 0
        self.products = 0
        self.elementwise = 0
        self._whole = _Whole(self)

    def __enter__(self) -> Counts:
        self._whole.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._whole.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        inputs, outputs = _tensors((args, kwargs)), _tensors(out)
        stored = {t.untyped_storage()._cdata for t in inputs}
        view = not func._schema.is_mutable and all(t.untyped_storage()._cdata in stored for t in outputs)
        # Tables and noise levels that are computed on the CPU are no kernels.
        there = any(t.is_meta for t in (*inputs, *outputs))
        if there and outputs and not view and not name.startswith(FREE):
            self.count(name, inputs, outputs)
        return out

    def count(self, name: str, inputs: Iterable[Tensor], outputs: Iterable[Tensor]) -> None:
        """Count one kernel that reads ``inputs`` and writes ``outputs``."""
        self.kernels += 1
        moved = sum(_bytes(t) for t in {id(t): t for t in inputs}.values()) + sum(map(_bytes, outputs))
        if name in PRODUCTS:
            self.products += moved
        else:
            self.elementwise += moved


class _Whole(TorchFunctionMode):
    """Counts attention and RMS norm as one kernel each."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self._counts = counts

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = _tensors((args, kwargs))
        if func is F.scaled_dot_product_attention and given[0].is_meta:
            q, v = given[0], given[2]
            with _disable_current_modes():
                # All heads of a token are adjacent, as the fused kernels return them.
                shape = (q.shape[0], q.shape[2], q.shape[1], v.shape[-1])
                out = torch.empty(shape, dtype=q.dtype, device="meta").transpose(1, 2)
            self._counts.count("attention", given, [out])
            return out
        if func in (F.rms_norm, torch.rms_norm) and given[0].is_meta:
            with _disable_current_modes():
                out = torch.empty_like(given[0])
            self._counts.count("rms_norm", given, [out])
            return out
        return func(*args, **kwargs)


class CountedKernels:
    """In place of the trials of kernels: each call is one kernel of ``counts``."""

    kernels = True
    problem = None

    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def passes(self, *_arguments: Any, **_settings: Any) -> bool:
        return True

    def run(self, kernel: Kernel, *arguments: Any, **settings: Any) -> Any:
        with _disable_current_modes(), torch._C.DisableTorchFunction():
            out = kernel.formula(*arguments, **settings)
        written: tuple[Any, ...] = ()
        if kernel.name == "norm_modulate":
            # The update of a branch is written to the tokens beside the result; what has room for results is
            # not read.
            written = (None if arguments[1] is None else arguments[0], *arguments[9:])
            arguments = (*arguments[:6], *arguments[7:9])
        elif kernel.name == "norm_rotate":
            # Keys are written beside the queries.
            written = arguments[2:3]
        inputs = _tensors((arguments, settings))
        self._counts.count(kernel.name, inputs, _tensors((out, written)))
        return out


def counted_fused(counts: Counts) -> Fused:
    """Kernels of the transformer that ``counts`` counts, on the meta device."""
    fused = Fused()
    fused._trials = fused._products = fused._outputs = CountedKernels(counts)  # type: ignore[assignment]
    return fused


class CountedWindows(Windows):
    """Windows of the video decoder by kernels that ``counts`` counts, on the meta device."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self._trials = CountedKernels(counts)  # type: ignore[assignment]

    def takes(self, x: Tensor) -> bool:  # noqa: ARG002 every clip
        return True


def _tensors(values: Any) -> list[Tensor]:
    leaves = (leaf for own in tree_leaves(values) for leaf in _of_layer(own))
    return [t for t in leaves if isinstance(t, Tensor)]


def _of_layer(value: Any) -> tuple[Any, ...]:
    return (value.weight, value.bias) if isinstance(value, Layer) else (value,)


def _bytes(tensor: Tensor) -> int:
    """Bytes of a tensor; values that are repeated along an axis count once."""
    return min(tensor.nbytes, tensor.untyped_storage().nbytes())
