"""Encodes weights in the quantised formats that :mod:`.dequantize` decodes.

Letters: O output features, I input features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .dequantize import E2M1, FP8_MAX, MXFP8_BLOCK, NVFP4_BLOCK, Format, Kind, hadamard
from .gguf_blocks import encode_q8_0
from .int4 import INT8_MAX, packed_nibbles

FP8_ERROR = 2.0**-4
"""Largest relative error of rounding to float8_e4m3fn: half of the last of its three fraction bits."""
FP8_STEP = 2.0**-10
"""Largest absolute rounding error among the smallest float8_e4m3fn values, in units of the scale."""

INT4_MAX = 7
W4A8_GROUP = 16
"""Inputs that share a scale in W4A8."""

# The smallest scale: that of a weight of zeros would be 0, and is divided by.
_TINY = 1e-12


def encode(form: Format, weight: Tensor) -> dict[str, Tensor]:
    """Encode ``weight`` (O, I), outputs by inputs, in the format ``form``.

    Returns the stored weight and its scales, under names such as ``weight`` and ``weight_scale``. Scales are
    computed from this weight. The kind "float" gives float8_e4m3fn with one scale, the kind "gguf" always
    Q8_0. NVFP4 and MXFP8 pad the weight with zeros to whole blocks.
    """
    return _ENCODERS[form.kind](form, weight.float())


def quantize_fp8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Encode ``weight``, of any shape, in fp8: returns float8_e4m3fn values and a scalar float32 scale.

    Values times scale give the weight, up to rounding.
    """
    weight = weight.float()
    scale = (weight.abs().amax() / FP8_MAX).clamp(min=_TINY)
    # Clamped, since a quotient may round to just above the largest value.
    return (weight / scale).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn), scale


def tile_block_scales(scales: Tensor) -> Tensor:
    """Arrange block scales (rows, columns) in cuBLAS's tiled layout, padded with zeros.

    The inverse of :func:`.dequantize.untile_block_scales`, which describes the layout.
    """
    rows, columns = scales.shape
    padded = F.pad(scales, (0, -columns % 4, 0, -rows % 128))
    tiles = rearrange(padded, "(a q s) (b c) -> (a b s q c)", q=4, s=32, c=4)
    return tiles.reshape(padded.shape)


def _fp8(_form: Format, weight: Tensor) -> dict[str, Tensor]:
    stored, scale = quantize_fp8(weight)
    return {"weight": stored, "weight_scale": scale}


def _int8(form: Format, weight: Tensor) -> dict[str, Tensor]:
    if not form.rotation:
        scale = (weight.abs().amax() / INT8_MAX).clamp(min=_TINY)
        return {"weight": (weight / scale).round().to(torch.int8), "weight_scale": scale}
    rotated = _rotated(form, weight)
    # Rotated weights have one scale for each output row.
    scales = (rotated.abs().amax(dim=1, keepdim=True) / INT8_MAX).clamp(min=_TINY)
    return {"weight": (rotated / scales).round().to(torch.int8), "weight_scale": scales}


def _rotated(form: Format, weight: Tensor) -> Tensor:
    groups = rearrange(weight, "o (n g) -> o n g", g=form.rotation)
    # The rotation spreads outliers over the group, so that they no longer set the scale of their row.
    return rearrange(groups @ hadamard(form.rotation).to(weight.device), "o n g -> o (n g)")


def _w4a4(form: Format, weight: Tensor) -> dict[str, Tensor]:
    rotated = _rotated(form, weight)
    scales = (rotated.abs().amax(dim=1, keepdim=True) / INT4_MAX).clamp(min=_TINY)
    return {"weight": packed_nibbles((rotated / scales).round()), "weight_scale": scales[:, 0]}


def _w4a8(form: Format, weight: Tensor) -> dict[str, Tensor]:
    rotated = _rotated(form, weight)
    channel = (rotated.abs().amax(dim=1) / INT8_MAX).clamp(min=_TINY)
    groups = rearrange(rotated / channel[:, None], "o (n g) -> o n g", g=W4A8_GROUP)
    # Scales are stored in fp8, so that codes are found with what they are rounded to.
    rel = (groups.abs().amax(dim=2) / INT4_MAX).clamp(min=2.0**-6).to(torch.float8_e4m3fn)
    codes = (groups / rel.float()[..., None]).round().clamp(-8, 7) + 8
    packed = packed_nibbles(rearrange(codes, "o n g -> o (n g)"))
    return {"weight": packed, "weight_s_rel": rel, "weight_s_channel": channel}


def _nvfp4(_form: Format, weight: Tensor) -> dict[str, Tensor]:
    rows, columns = weight.shape
    padded = F.pad(weight, (0, -columns % NVFP4_BLOCK, 0, -rows % NVFP4_BLOCK))
    blocks = rearrange(padded, "o (n b) -> o n b", b=NVFP4_BLOCK)
    # A scale for the whole tensor brings block scales into the range of fp8.
    scale = (blocks.abs().amax() / (E2M1[-1] * FP8_MAX)).clamp(min=_TINY)
    block_scales = (blocks.abs().amax(dim=-1) / E2M1[-1] / scale).to(torch.float8_e4m3fn)
    units = blocks / (block_scales.float() * scale).clamp(min=_TINY)[..., None]
    # Codes are found by the midpoints between the eight magnitudes, which rounds to nearest.
    codes = torch.bucketize(units.abs().contiguous(), _midpoints(weight.device)) + 8 * (units < 0)
    codes = rearrange(codes, "o n b -> o (n b)").to(torch.uint8)
    # Viewed as bytes, because torch cannot pad tensors of fp8.
    tiled = tile_block_scales(block_scales.view(torch.uint8)).view(torch.float8_e4m3fn)
    return {"weight": codes[:, ::2] << 4 | codes[:, 1::2], "weight_scale": tiled, "weight_scale_2": scale}


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _midpoints(device: torch.device) -> Tensor:
    # Made once: inputs of layers are encoded in each forward pass, and numbers of Python are copied to a GPU
    # by a call that waits for it.
    return torch.tensor([(a + b) / 2 for a, b in pairwise(E2M1)], device=device)


def _mxfp8(_form: Format, weight: Tensor) -> dict[str, Tensor]:
    rows, columns = weight.shape
    padded = F.pad(weight, (0, -columns % MXFP8_BLOCK, 0, -rows % MXFP8_BLOCK))
    blocks = rearrange(padded, "o (n b) -> o n b", b=MXFP8_BLOCK)
    # A block of zeros has no logarithm.
    largest = blocks.abs().amax(dim=-1).clamp(min=2.0**-120)
    # Rounded up, because a value above FP8_MAX would be clamped.
    exponents = torch.ceil(torch.log2(largest / FP8_MAX))
    stored = (blocks / torch.exp2(exponents)[..., None]).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn)
    return {
        # Exponents are stored with a bias of 127, as in the E8M0 format.
        "weight": rearrange(stored, "o n b -> o (n b)"),
        # 254 is the largest exponent, because E8M0 reserves 255 for NaN.
        "weight_scale": tile_block_scales((exponents + 127).clamp(0, 254).to(torch.uint8)),
    }


def _gguf(_form: Format, weight: Tensor) -> dict[str, Tensor]:
    # The K formats are found by a search; Q8_0 takes more memory and loses less.
    return {"weight": encode_q8_0(weight)}


_ENCODERS: Mapping[Kind, Callable[[Format, Tensor], dict[str, Tensor]]] = {
    "float": _fp8,
    "int8": _int8,
    "nvfp4": _nvfp4,
    "mxfp8": _mxfp8,
    "w4a4": _w4a4,
    "w4a8": _w4a8,
    "gguf": _gguf,
}
