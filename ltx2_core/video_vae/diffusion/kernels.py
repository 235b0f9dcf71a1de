"""Which kernel of this machine computes a neighbourhood attention, and the one of comfy-kitchen, ``na3d``.

Letters: B batch, T H W time, rows and columns, N heads, D head width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec
from math import prod
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from .windows import Attend, Axes

Means: TypeAlias = Literal["tiles", "na3d", "triton"]
"""What computes neighbourhood attention: tiles of queries, the kernel of comfy-kitchen, or our own."""


def kernel_for(q: Tensor, k: Tensor, v: Tensor, axes: Axes, boxes: float) -> Attend | None:
    """The function that computes the attention of q to k and v with less work than tiles do; None without.

    It has the arguments and the result of :func:`.attention.neighbourhood_attention`, as q, k, v and ``axes``
    here. ``boxes`` is how many times as many keys a tile of queries attends to as there are in a window. On
    CUDA this is the Triton kernel, or else ``na3d`` where that attends from few positions for nothing.
    """
    if q.device.type != "cuda" or torch.is_grad_enabled():
        return None
    # Triton takes a while to import, and not every machine has it.
    from .triton_check import why_not
    from .triton_kernel import by_triton

    window = axes[0].window, axes[1].window, axes[2].window
    if not why_not(q.device, q.dtype, q.shape[-1], window):
        return by_triton
    na3d = _na3d()
    if na3d is None or not few_keys(prod(q.shape[1:4]), prod(k.shape[1:4]), boxes):
        return None
    return partial(by_na3d, na3d) if _has_kernel(k, v, axes) else None


def means_on(device: torch.device) -> Means:
    """What computes attention on ``device``, as far as can be told without computing on it.

    The Triton kernel is checked where it is used first, and is not used if it fails.
    """
    if device.type != "cuda":
        return "tiles"
    if find_spec("triton") is not None:
        return "triton"
    return "tiles" if _na3d() is None else "na3d"


def few_keys(queries: float, keys: float, boxes: float) -> bool:
    """Whether a kernel that attends from all ``keys`` positions does no more than tiles of ``queries`` do.

    A tile of queries attends to ``boxes`` times as many keys as there are in a window.
    """
    return keys <= boxes * queries


def by_na3d(na3d: Callable[..., Any], q: Tensor, k: Tensor, v: Tensor, axes: Axes) -> Tensor:
    """softmax(q kᵀ) v over the window of each query, by comfy-kitchen: (B, T, H, W, N, D).

    ``na3d`` is its function, the other arguments are those of :func:`.attention.neighbourhood_attention`.
    Keys begin and end where the windows of the queries do, so that the kernel, which takes them for the whole
    axis, shifts the windows at the same positions. Queries and the result take as much memory as the keys.
    """
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
