"""Decodes quantised linear weights to float32: fp8 with or without a scale, and NVFP4.

Letters: O output features, I input features.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
from einops import rearrange
from torch import Tensor

FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
SCALE_NAMES = ("weight_scale", "scale_weight")
"""The second name belongs to older files, those with a tensor ``scaled_fp8``."""

NVFP4_BLOCK = 16
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Magnitudes of the codes 0 ... 7; bit 3 is the sign."""


def dequantize(name: str, tensors: Mapping[str, Tensor], *, shape: tuple[int, int] | None = None) -> Tensor:
    """The weight (O, I) of layer ``name`` in float32.

    ``tensors`` holds ``{name}.weight`` with its scales and, where there is one, the marker
    ``{name}.comfy_quant``; without a marker the data types tell the format. An ordinary weight is only cast.
    ``shape`` is (O, I) of the layer, for NVFP4 weights that were padded to multiples of 16.

    Raises:
        ValueError: a format that is not supported, or a scale that is absent or of an unknown form.
    """
    weight = tensors[f"{name}.weight"]
    kind = _format(name, tensors)
    if kind == "nvfp4":
        block_scale, scale = (
            _required(name, tensors, "weight_scale"),
            _required(name, tensors, "weight_scale_2"),
        )
        return _nvfp4(weight, block_scale, scale, shape or (weight.shape[0], 2 * weight.shape[1]))
    scale_or_none = next((tensors[k] for s in SCALE_NAMES if (k := f"{name}.{s}") in tensors), None)
    if scale_or_none is None:
        return weight.float()
    if scale_or_none.numel() != 1:
        raise ValueError(
            f"{name}: one scale per tensor is supported; got scales {tuple(scale_or_none.shape)}"
        )
    return weight.float() * scale_or_none.float().reshape(())


def untile_block_scales(stored: Tensor, rows: int, columns: int) -> Tensor:
    """Undo the tiling that cuBLAS wants: ``stored`` (R, C) -> (rows, columns), element order restored.

    R is ``rows`` rounded up to 128, C ``columns`` rounded up to 4. A tile covers 128 rows and 4 columns and
    stores rows r, r + 32, r + 64 and r + 96 side by side.
    """
    tiles = rearrange(
        stored.reshape(-1), "(a b s q c) -> (a q s) (b c)", b=stored.shape[1] // 4, s=32, q=4, c=4
    )
    return tiles[:rows, :columns]


def _format(name: str, tensors: Mapping[str, Tensor]) -> str:
    marker = tensors.get(f"{name}.comfy_quant")
    if marker is not None:
        kind = str(json.loads(bytes(marker.cpu().tolist()))["format"])
        if kind not in ("float8_e4m3fn", "float8_e5m2", "nvfp4"):
            raise ValueError(
                f"{name} is quantised as {kind!r}; supported are float8_e4m3fn, float8_e5m2 and nvfp4: "
                "take another file of this model"
            )
        return kind
    weight = tensors[f"{name}.weight"]
    if weight.dtype == torch.uint8 and f"{name}.weight_scale_2" in tensors:
        return "nvfp4"
    if not weight.is_floating_point():
        raise ValueError(f"{name}.weight holds {weight.dtype} without a marker that says how to decode it")
    return str(weight.dtype)


def _required(name: str, tensors: Mapping[str, Tensor], suffix: str) -> Tensor:
    if (tensor := tensors.get(f"{name}.{suffix}")) is None:
        raise ValueError(
            f"{name} is quantised as nvfp4 but {name}.{suffix} is missing; the file is incomplete"
        )
    return tensor


def _nvfp4(weight: Tensor, block_scale: Tensor, scale: Tensor, shape: tuple[int, int]) -> Tensor:
    """E2M1 value x scale of its block of 16 inputs x scale of the tensor."""
    table = torch.tensor((*E2M1, *(-magnitude for magnitude in E2M1)), device=weight.device)
    # The even element of each pair is in the high nibble.
    codes = rearrange([weight >> 4, weight & 15], "two o j -> o (j two)").long()
    blocks = rearrange(table[codes], "o (n block) -> o n block", block=NVFP4_BLOCK)
    stored = block_scale.view(torch.float8_e4m3fn) if block_scale.dtype == torch.uint8 else block_scale
    scales = untile_block_scales(stored.float(), blocks.shape[0], blocks.shape[1])
    decoded = blocks * scales[..., None] * scale.float().reshape(())
    return rearrange(decoded, "o n block -> o (n block)")[: shape[0], : shape[1]]
