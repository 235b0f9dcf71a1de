"""Attention by the backend that suits the hardware: FlashAttention 3, cuDNN, or PyTorch's own choice.

Letters: B batch, H heads, T query tokens, S key tokens, D head width.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from inspect import signature
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Backend = Literal["FlashAttention 3", "cuDNN", "PyTorch"]

_HALF = (torch.bfloat16, torch.float16)
_HOPPER = (9, 0)
_log = logging.getLogger(__name__)


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attention of each head: softmax(q kᵀ / √D + bias) v.

    q (B, H, T, D), k and v (B, H, S, D) -> (B, H, T, D), for H heads of width D, T queries and S keys.
    ``bias`` is additive and broadcasts to (B, H, T, S); None is no bias.
    """
    # The fast backends take half precision without a bias, and FlashAttention 3 has no gradients here.
    if bias is not None or not q.is_cuda or q.dtype not in _HALF or torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    backend, flash = _choice(q.device.index or 0)
    if flash is not None and q.shape[-1] in (64, 128):
        return flash(q, k, v)
    if backend == "PyTorch":
        return F.scaled_dot_product_attention(q, k, v)
    with sdpa_kernel(_ORDER, **_PRIORITY):
        return F.scaled_dot_product_attention(q, k, v)


def attention_backend(device: torch.device, dtype: torch.dtype) -> Backend:
    """The name of the backend that :func:`attention` prefers on ``device`` in ``dtype``.

    PyTorch's own choice is used all the same with a bias or with gradients, and cuDNN in place of
    FlashAttention 3 for head widths other than 64 and 128.
    """
    if device.type != "cuda" or dtype not in _HALF:
        return "PyTorch"
    return _choice(device.index or 0)[0]


_ORDER = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
# Before PyTorch 2.6 the order could not be chosen.
_PRIORITY = {"set_priority": True} if "set_priority" in signature(sdpa_kernel).parameters else {}


@lru_cache(maxsize=16)
def _choice(index: int) -> tuple[Backend, Callable[[Tensor, Tensor, Tensor], Tensor] | None]:
    """Choose the backend of CUDA device number ``index``; returns (its name, function of FlashAttention 3).

    The function is None if another backend is chosen. Each backend is tried on a small input; one that is
    missing or whose result is wrong is not chosen.
    """
    if torch.version.hip or torch.cuda.get_device_capability(index) < _HOPPER:
        return "PyTorch", None
    device = torch.device("cuda", index)
    flash = _flash3(device)
    if flash is not None:
        chosen: Backend = "FlashAttention 3"
    else:
        chosen = "cuDNN" if _agrees(_cudnn, device) else "PyTorch"
    _log.info("attention on %s: %s", torch.cuda.get_device_name(index), chosen)
    return chosen, flash


def _flash3(device: torch.device) -> Callable[[Tensor, Tensor, Tensor], Tensor] | None:
    if torch.cuda.get_device_capability(device)[0] != _HOPPER[0]:
        return None
    try:
        kernel: Any = import_module("flash_attn_interface").flash_attn_func
    except (ImportError, OSError, AttributeError):
        return None

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        # The kernel takes all heads of a token next to each other, as they are in memory.
        result = kernel(*(t.transpose(1, 2) for t in (q, k, v)))
        # Some versions also return the logarithm of the softmax's sum.
        out: Tensor = result[0] if isinstance(result, tuple) else result
        return out.transpose(1, 2)

    return run if _agrees(run, device) else None


def _cudnn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with sdpa_kernel([SDPBackend.CUDNN_ATTENTION]):
        return F.scaled_dot_product_attention(q, k, v)


def _agrees(run: Callable[[Tensor, Tensor, Tensor], Tensor], device: torch.device) -> bool:
    """Whether the attention function ``run(q, k, v)`` works on ``device``, tried on random bfloat16 values.

    True if it raises nothing and its result is within 0.03 of the plain formula in float32.
    """
    generator = torch.Generator(device).manual_seed(0)
    q, k, v = (
        torch.randn(1, 2, 96, 64, device=device, dtype=torch.bfloat16, generator=generator) for _ in range(3)
    )
    try:
        with torch.no_grad():
            result = run(q, k, v).float()
    except Exception as error:  # noqa: BLE001 a kernel package raises what it likes
        # A missing or unfit kernel is no error, since another backend takes its place.
        _log.info("an attention backend does not work here: %s", error)
        return False
    with sdpa_kernel([SDPBackend.MATH]):
        plain = F.scaled_dot_product_attention(q.float(), k.float(), v.float())
    return bool((result - plain).abs().max() < 0.03)
