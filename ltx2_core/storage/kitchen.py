"""Products of quantised layers by the kernels of the package comfy-kitchen, where it is installed.

Each kind of product is tried on a small layer before it is used; without the package, and where it fails, the
callers compute by PyTorch.

Letters: M rows of the input, I inputs, O outputs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import lru_cache
from importlib import import_module
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..kernels.trial import tried
from .dequantize import E2M1, FP8_MAX, Format, decode
from .quantize import encode

Product = Literal["int8", "fp8", "nvfp4", "mxfp8"]
PRODUCTS: tuple[Product, ...] = ("int8", "fp8", "nvfp4", "mxfp8")

_FORMATS: Mapping[Product, Format] = {
    "fp8": Format("float"),
    "nvfp4": Format("nvfp4"),
    "mxfp8": Format("mxfp8"),
}
_FUNCTIONS: Mapping[Product, tuple[str, ...]] = {
    "int8": ("int8_linear",),
    # Its products of fp8 are those of PyTorch; it rounds the input by one kernel.
    "fp8": ("quantize_per_tensor_fp8",),
    "nvfp4": ("quantize_nvfp4", "scaled_mm_nvfp4"),
    "mxfp8": ("quantize_mxfp8", "scaled_mm_mxfp8"),
}
_CAPABILITIES: Mapping[Product, tuple[int, int]] = {
    "int8": (7, 5),
    "fp8": (8, 9),
    "nvfp4": (10, 0),
    "mxfp8": (10, 0),
}
# Rounding the input to four bits is off by a tenth.
_ALLOWED: Mapping[Product, float] = {"int8": 0.03, "fp8": 0.06, "nvfp4": 0.2, "mxfp8": 0.06}
_KERNELS = ("cuda", "triton")
"""Backends of the package that are not plain PyTorch."""
_TINY = 1e-12
_log = logging.getLogger(__name__)


class Int8(NamedTuple):
    """What the kernels of an int8 product differ by; the default is that of released files."""

    rotation: int = 256
    one_scale: bool = False
    """Whether the weight has one scale, and not one for each output."""
    bias: bool = True


RELEASED = Int8()


def kitchen_problem(kind: Product, device: torch.device, int8: Int8 = RELEASED) -> str | None:
    """Why products of ``kind`` are not computed by comfy-kitchen on ``device``, in words; None if they are.

    ``int8`` is for products of that kind. The first call for a device computes a small product.
    """
    if device.type != "cuda" or torch.version.hip is not None:
        return f"comfy-kitchen has kernels for NVIDIA GPUs, and the device is {device}"
    return _problem(kind, device.index or 0, int8)


@lru_cache(maxsize=64)
def _problem(kind: Product, index: int, int8: Int8) -> str | None:
    package, why = _package()
    if package is None:
        return why
    least = _CAPABILITIES[kind]
    if torch.cuda.get_device_capability(index) < least:
        return f"{kind} products need compute capability {least[0]}.{least[1]}"
    for name in _FUNCTIONS[kind]:
        if not hasattr(package, name):
            return f"this comfy-kitchen has no {name}: pip install -U comfy-kitchen"
    first = _FUNCTIONS[kind][0]
    backends = package.list_backends()
    if not any(_has(backends.get(name, {}), first) for name in _KERNELS):
        return f"comfy-kitchen has {first} in plain PyTorch alone here"
    wrong, failure = tried(lambda: trial(kind, torch.device("cuda", index), int8))
    if wrong is not None and wrong > _ALLOWED[kind]:
        failure = f"it is off by {wrong:.1%} in a trial"
    if failure:
        name = f"{kind} ({int8})" if kind == "int8" else kind
        _log.warning("%s products of comfy-kitchen cannot be used here: %s", name, failure)
    return failure or None


def trial(kind: Product, device: torch.device, int8: Int8 = RELEASED) -> float:
    """How far a small product of ``kind`` on ``device`` is off that of the decoded weight, relatively."""
    generator = torch.Generator(device).manual_seed(0)
    # A rotation may take more inputs.
    width = max(256, int8.rotation) if kind == "int8" else 256
    x, weight = (torch.randn(n, width, device=device, generator=generator).bfloat16() for n in (48, 128))
    form = Format("int8", int8.rotation) if kind == "int8" else _FORMATS[kind]
    stored = encode(form, weight)
    if kind == "int8":
        scales = stored["weight_scale"].float()
        stored["weight_scale"] = scales.mean() if int8.one_scale else scales.expand(128, 1).contiguous()
    exact = x.float() @ decode("trial", form, stored, (128, width)).mT
    if kind == "int8":
        bias = torch.randn(128, device=device, generator=generator).to(x.dtype) if int8.bias else None
        exact = exact if bias is None else exact + bias.float()
        out = int8_linear(x, stored["weight"], stored["weight_scale"], bias, int8.rotation)
    elif kind == "fp8":
        out = fp8_product(round_fp8(x), stored["weight"], stored["weight_scale"], None, x.dtype)
    elif kind == "nvfp4":
        out = nvfp4_product(round_nvfp4(x), stored, None, x.dtype)[: len(x)]
    else:
        out = mxfp8_product(round_mxfp8(x), stored, None, x.dtype)[: len(x)]
    return float((out.float() - exact).norm() / exact.norm())


def int8_linear(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, rotation: int) -> Tensor:
    """x (M, I) times an int8 weight (O, I), plus bias (O,): (M, O) in the dtype of x.

    ``scale`` is one number or (O, 1); with ``rotation`` G inputs are rotated in groups of G as the weight is.
    """
    out: Tensor = _installed().int8_linear(
        x.contiguous(),
        weight,
        scale.float(),
        bias,
        out_dtype=x.dtype,
        convrot=rotation > 0,
        **({"convrot_groupsize": rotation} if rotation else {}),
    )
    return out


def round_fp8(x: Tensor) -> dict[str, Tensor]:
    """Round x (M, I) to fp8 with one scale: ``weight`` (M, I) in float8_e4m3fn, ``scale`` in float32."""
    scale = (x.abs().amax().float() / FP8_MAX).clamp(min=_TINY)
    return {"weight": _installed().quantize_per_tensor_fp8(x.contiguous(), scale), "scale": scale}


def fp8_product(
    x: Mapping[str, Tensor], weight: Tensor, scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """x, by :func:`round_fp8`, times a weight (O, I) in fp8 with one scale, plus bias (O,), in ``dtype``."""
    out: Tensor = torch._scaled_mm(
        x["weight"],
        # Kernels for fp8 need the second operand column by column, as which the transposed weight is stored.
        weight.t(),
        scale_a=x["scale"],
        scale_b=scale.float().reshape(()),
        bias=bias,
        out_dtype=dtype,
    )
    return out


def round_nvfp4(x: Tensor) -> dict[str, Tensor]:
    """Round x (M, I) to NVFP4, M rounded up to 16: names and layout are those of stored weights."""
    scale = (x.abs().amax().float() / (FP8_MAX * E2M1[-1])).clamp(min=_TINY)
    codes, blocks = _installed().quantize_nvfp4(x.contiguous(), scale, pad_16x=len(x) % 16 > 0)
    return {"weight": codes, "weight_scale": blocks, "weight_scale_2": scale}


def round_mxfp8(x: Tensor) -> dict[str, Tensor]:
    """Round x (M, I) to MXFP8, M rounded up to 32: names and layout are those of stored weights."""
    codes, blocks = _installed().quantize_mxfp8(x.contiguous(), pad_32x=len(x) % 32 > 0)
    return {"weight": codes, "weight_scale": blocks}


def nvfp4_product(
    x: Mapping[str, Tensor], weight: Mapping[str, Tensor], bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """Rows of x, by :func:`round_nvfp4`, times a stored weight (O, I), plus bias (O,), in ``dtype``."""
    out: Tensor = _installed().scaled_mm_nvfp4(
        x["weight"],
        weight["weight"],
        tensor_scale_a=x["weight_scale_2"],
        tensor_scale_b=weight["weight_scale_2"].float().reshape(()),
        block_scale_a=x["weight_scale"],
        block_scale_b=weight["weight_scale"].view(torch.float8_e4m3fn),
        bias=bias,
        out_dtype=dtype,
    )
    return out


def mxfp8_product(
    x: Mapping[str, Tensor], weight: Mapping[str, Tensor], bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """Rows of x, by :func:`round_mxfp8`, times a stored weight (O, I), plus bias (O,), in ``dtype``."""
    out: Tensor = _installed().scaled_mm_mxfp8(
        x["weight"],
        weight["weight"],
        block_scale_a=x["weight_scale"],
        block_scale_b=weight["weight_scale"].view(torch.float8_e8m0fnu),
        bias=bias,
        out_dtype=dtype,
    )
    return out


@lru_cache(maxsize=1)
def _package() -> tuple[Any, str]:
    """The package, or None and why it cannot be imported."""
    try:
        return import_module("comfy_kitchen"), ""
    except ImportError:
        return None, "comfy-kitchen is not installed: pip install comfy-kitchen"
    # A build for another CUDA fails in ways of its own.
    except Exception as error:  # noqa: BLE001 any error means that it cannot be used
        return None, f"comfy-kitchen cannot be imported ({type(error).__name__}: {error})"


def _installed() -> Any:
    package, why = _package()
    assert package is not None, why
    return package


def _has(backend: Mapping[str, Any], function: str) -> bool:
    return bool(
        backend.get("available") and not backend.get("disabled") and function in backend["capabilities"]
    )
