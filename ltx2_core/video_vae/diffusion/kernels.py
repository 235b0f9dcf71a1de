"""Neighbourhood attention by the kernel ``na3d`` of comfy-kitchen, where that is installed and saves work.

Letters: B batch, T H W time, rows and columns, N heads, D head width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import prod
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .windows import Axis

Axes: TypeAlias = tuple[Axis, Axis, Axis]


def saves_work(q: Tensor, k: Tensor, v: Tensor, axes: Axes, boxes: float) -> bool:
    """Whether a kernel of this machine computes the attention of q to k and v with less work than tiles do.

    q, k, v and ``axes`` are those of :func:`.attention.neighbourhood_attention`. ``boxes`` is how many times
    as many keys a tile of queries attends to as there are in a window. The kernel attends from all positions
    of the keys, and from what is no query for nothing.
    """
    if q.device.type != "cuda" or torch.is_grad_enabled() or _na3d() is None:
        return False
    if prod(k.shape[1:4]) > boxes * prod(q.shape[1:4]):
        return False
    return _has_kernel(k, v, axes)


def by_kernel(q: Tensor, k: Tensor, v: Tensor, axes: Axes) -> Tensor:
    """softmax(q kᵀ) v over the window of each query, by comfy-kitchen: (B, T, H, W, N, D).

    The arguments are those of :func:`.attention.neighbourhood_attention`. Keys begin and end where the
    windows of the queries do, so that the kernel, which takes them for the whole axis, shifts the windows at
    the same positions.
    """
    na3d = _na3d()
    assert na3d is not None
    at = [slice(axis.queries.start - axis.first_key, axis.queries.stop - axis.first_key) for axis in axes]
    whole = q
    if q.shape != k.shape:
        whole = torch.zeros_like(k)
        whole[:, at[0], at[1], at[2]] = q
    out: Tensor = na3d(whole, k.contiguous(), v.contiguous(), [axis.window for axis in axes], None, 1.0)
    return out[:, at[0], at[1], at[2]]


@cache
def _na3d() -> Callable[..., Any] | None:
    """The function of comfy-kitchen; None where that is not installed, or older than the function."""
    try:
        from comfy_kitchen import na3d
    # A package that does not fit the machine's CUDA fails in many ways.
    except Exception:  # noqa: BLE001
        return None
    found: Callable[..., Any] = na3d
    return found


def _has_kernel(k: Tensor, v: Tensor, axes: Axes) -> bool:
    """Whether comfy-kitchen has a fused kernel for these tensors, and not only its plain implementation."""
    try:
        from comfy_kitchen.registry import registry

        sizes = [axis.window for axis in axes]
        call = {"q": k, "k": k, "v": v, "kernel_size": sizes, "is_causal": [False] * 3, "scale": 1.0}
        return bool(registry.get_capable_backend("na3d", call) != "eager")
    except Exception:  # noqa: BLE001 the registry is no public interface: without it, tiles compute the same
        return False
