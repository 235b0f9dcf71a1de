"""Attention by the backend that suits the hardware or that the user chose.

Backends are PyTorch's own choice, cuDNN, FlashAttention 3 and SageAttention, whose products are rounded.

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
Plain = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""The signature of :func:`attention`."""

CHOICES = ("auto", "pytorch", "cudnn", "flash3", "sage")
"""Values of ``--attention``: auto takes the fastest exact backend that works on the device."""
NAMES = {"pytorch": "PyTorch", "cudnn": "cuDNN", "flash3": "FlashAttention 3", "sage": "SageAttention"}
"""Choice -> the name of its backend."""

_HALF = (torch.bfloat16, torch.float16)
_WIDTHS = (64, 128)
_HOPPER = (9, 0)
_AMPERE = (8, 0)
_log = logging.getLogger(__name__)


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attention of each head: softmax(q kᵀ / √D + bias) v.

    q (B, H, T, D), k and v (B, H, S, D) -> (B, H, T, D), for H heads of width D, T queries and S keys.
    ``bias`` is additive and broadcasts to (B, H, T, S); None is no bias.
    """
    if bias is not None or not takes_fast_kernels(q):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    backend, flash = _choice(q.device.index or 0)
    if flash is not None and q.shape[-1] in _WIDTHS:
        return flash(q, k, v)
    if backend == "PyTorch":
        return F.scaled_dot_product_attention(q, k, v)
    return _cudnn_first(q, k, v)


def takes_fast_kernels(q: Tensor) -> bool:
    """Whether backends other than PyTorch's own choice may compute queries ``q`` without a bias."""
    # They take half precision, and FlashAttention 3 has no gradients here.
    return q.is_cuda and q.dtype in _HALF and not torch.is_grad_enabled()


def attention_by(choice: str, device: torch.device) -> Plain:
    """Return the function that computes :func:`attention` by the backend of ``choice``, one of ``CHOICES``.

    It computes by PyTorch's own choice what the backend does not take: a bias, float32, gradients, and other
    head widths than 64 and 128 with FlashAttention 3 and SageAttention. Raises ValueError if the backend is
    not installed or does not work on ``device``.
    """
    if choice == "auto":
        return attention
    problem = why_not(choice, device)
    if problem is not None:
        usable = ", ".join(name for name in CHOICES if name == "auto" or why_not(name, device) is None)
        raise ValueError(f"--attention {choice} (attention={choice!r}): {problem}. Usable here: {usable}")
    kernel = {"cudnn": _cudnn_first, "flash3": _flash3_kernel, "sage": _sage_kernel}.get(choice)

    def run(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        packaged = choice in ("flash3", "sage")
        if kernel is None or bias is not None or not takes_fast_kernels(q):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        if packaged and q.shape[-1] not in _WIDTHS:
            return F.scaled_dot_product_attention(q, k, v)
        return kernel(q, k, v)

    return run


def why_not(choice: str, device: torch.device) -> str | None:
    """Why the backend of ``choice`` cannot be used on ``device``, for the user; None if it can.

    Backends of packages are tried on a small input.
    """
    if choice in ("auto", "pytorch"):
        return None
    if device.type != "cuda" or torch.version.hip:
        return f"{NAMES[choice]} needs an NVIDIA GPU; the device is {device}"
    return _problem(choice, device.index or 0)


@lru_cache(maxsize=16)
def _problem(choice: str, index: int) -> str | None:
    """What keeps CUDA device number ``index`` from the backend of ``choice``; None if it works there."""
    device, name = torch.device("cuda", index), NAMES[choice]
    capability = torch.cuda.get_device_capability(index)
    if choice == "flash3" and capability[0] != _HOPPER[0]:
        return (
            f"{name} is for Hopper GPUs (compute capability 9); this one has {'.'.join(map(str, capability))}"
        )
    if choice != "flash3" and capability < _AMPERE:
        return f"{name} needs an Ampere GPU (compute capability 8.0) or a newer one"
    package, install = _PACKAGES.get(choice, ("", ""))
    if package:
        try:
            import_module(package)
        except (ImportError, OSError) as error:
            return f"{name} is not installed ({type(error).__name__}: {error}); {install}"
    kernel, tolerance = _TRIALS[choice]
    if not _agrees(kernel, device, tolerance):
        return f"{name} failed a trial on {torch.cuda.get_device_name(index)}"
    return None


def attention_with_sums(q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> tuple[Tensor, Tensor]:
    """Attention without a bias, and the logarithm of each softmax's sum.

    q (B, H, T, D), k and v (B, H, S, D), of which D is a multiple of 8 -> (B, H, T, D) in their dtype and
    (B, H, T) in float32. Logits are ``scale`` q kᵀ. On CUDA in half precision on Ampere and newer, where
    :func:`attention` uses FlashAttention 3 by that; elsewhere only on the CPU.
    """
    ops: Any = torch.ops.aten
    if q.is_cuda and q.shape[-1] in _WIDTHS and _flash3_gives_sums(q.device.index or 0):
        return _flash3_with_sums(q, k, v, scale)
    if q.is_cuda:
        out, sums, *_ = ops._scaled_dot_product_flash_attention(q, k, v, 0.0, False, False, scale=scale)
    else:
        out, sums = ops._scaled_dot_product_flash_attention_for_cpu(q, k, v, scale=scale)
    return out, sums


def gives_sums(q: Tensor) -> bool:
    """Whether :func:`attention_with_sums` works for queries ``q`` there, and is faster than a bias."""
    return takes_fast_kernels(q) and _sums_agree(q.device.index or 0)


@lru_cache(maxsize=16)
def _sums_agree(index: int) -> bool:
    """Whether CUDA device number ``index`` has the kernel with sums, and its results are right."""
    if not torch.version.hip and torch.cuda.get_device_capability(index) < _AMPERE:
        return False
    return _agrees_with_sums(lambda q, k, v, s: attention_with_sums(q, k, v, scale=s), index)


@lru_cache(maxsize=16)
def _flash3_gives_sums(index: int) -> bool:
    """Whether FlashAttention 3 is chosen on CUDA device number ``index``, and its sums are right."""
    return _choice(index)[1] is not None and _agrees_with_sums(_flash3_with_sums, index)


def _agrees_with_sums(by: Callable[..., tuple[Tensor, Tensor]], index: int) -> bool:
    wrong: list[Tensor] = []

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out, sums = by(q, k, v, q.shape[-1] ** -0.5)
        logits = q.float() @ k.float().mT * q.shape[-1] ** -0.5
        wrong.append((logits.logsumexp(-1) - sums).abs().max() > 0.03)
        return out

    return _agrees(run, torch.device("cuda", index)) and not any(wrong)


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
    return None if why_not("flash3", device) else _flash3_kernel


def _flash3_kernel(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    # The kernel takes all heads of a token next to each other, as they are in memory.
    interface: Any = import_module("flash_attn_interface")
    result = interface.flash_attn_func(*(t.transpose(1, 2) for t in (q, k, v)))
    # Some versions also return the logarithm of the softmax's sum.
    out: Tensor = result[0] if isinstance(result, tuple) else result
    return out.transpose(1, 2)


def _flash3_with_sums(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    interface: Any = import_module("flash_attn_interface")
    by_token = (t.transpose(1, 2) for t in (q, k, v))
    # Versions before this option always return the sums.
    asked = "return_attn_probs" in signature(interface.flash_attn_func).parameters
    options = {"return_attn_probs": True} if asked else {}
    out, sums, *_ = interface.flash_attn_func(*by_token, softmax_scale=scale, **options)
    return out.transpose(1, 2), sums


def _sage_kernel(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    package: Any = import_module("sageattention")
    out: Tensor = package.sageattn(q, k, v, tensor_layout="HND", is_causal=False)
    return out


def _cudnn_first(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with sdpa_kernel(_ORDER, **_PRIORITY):
        return F.scaled_dot_product_attention(q, k, v)


def _cudnn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with sdpa_kernel([SDPBackend.CUDNN_ATTENTION]):
        return F.scaled_dot_product_attention(q, k, v)


_PACKAGES = {
    "flash3": (
        "flash_attn_interface",
        "build it from the folder hopper of github.com/Dao-AILab/flash-attention",
    ),
    "sage": ("sageattention", "pip install sageattention, or build it from github.com/thu-ml/SageAttention"),
}
"""Choice -> the module of its package, and how it is installed."""
# SageAttention multiplies rounded queries and keys.
_TRIALS = {"cudnn": (_cudnn, 0.03), "flash3": (_flash3_kernel, 0.03), "sage": (_sage_kernel, 0.1)}


def _agrees(
    run: Callable[[Tensor, Tensor, Tensor], Tensor], device: torch.device, tolerance: float = 0.03
) -> bool:
    """Whether the attention function ``run(q, k, v)`` works on ``device``, tried on random bfloat16 values.

    True if it raises nothing and its result is within ``tolerance`` of the plain formula in float32.
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
    return bool((result - plain).abs().max() < tolerance)
