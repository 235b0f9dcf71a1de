"""Decodes the block formats of GGUF to float32, on any device.

A row of a weight is a sequence of blocks of 32 or 256 values. A block holds the codes of its values and one
or two float16 factors; the K formats divide it further, with a small scale for each group of 16 or 32 values.
The layouts are those of llama.cpp.

Letters: n blocks, in any number of leading axes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

import torch
from torch import Tensor

BLOCKS: Mapping[str, tuple[int, int]] = {
    "Q4_0": (32, 18),
    "Q4_1": (32, 20),
    "Q5_0": (32, 22),
    "Q5_1": (32, 24),
    "Q8_0": (32, 34),
    "Q2_K": (256, 84),
    "Q3_K": (256, 110),
    "Q4_K": (256, 144),
    "Q5_K": (256, 176),
    "Q6_K": (256, 210),
    "IQ4_NL": (32, 18),
    "IQ4_XS": (256, 136),
}
"""Format -> (values, bytes) of a block."""

_NONLINEAR = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""The 16 values of the IQ4 formats."""


def gguf_values(kind: str, stored: Tensor) -> Tensor:
    """Decode ``stored`` (..., bytes of whole blocks), uint8 of the format ``kind``: float32 (..., values)."""
    values, size = BLOCKS[kind]
    blocks = stored.unflatten(-1, (-1, size))
    return _DECODERS[kind](blocks).reshape(*stored.shape[:-1], blocks.shape[-2] * values)


def gguf_factors(kind: str, stored: Tensor) -> Tensor:
    """Factors (..., blocks, factors) of all blocks of ``stored`` (..., bytes of whole blocks)."""
    blocks = stored.unflatten(-1, (-1, BLOCKS[kind][1]))
    start, count = _FACTORS.get(kind, (0, 1))
    return _float16(blocks, start, count)


_FACTORS: Mapping[str, tuple[int, int]] = {
    "Q4_1": (0, 2),
    "Q5_1": (0, 2),
    "Q2_K": (80, 2),
    "Q3_K": (108, 1),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208, 1),
}
"""Format -> (first byte, number) of the float16 factors in a block; (0, 1) for those not listed."""


def encode_q8_0(weight: Tensor) -> Tensor:
    """Encode ``weight`` (O, I), I a multiple of 32, as Q8_0: (O, I / 32 * 34) uint8.

    The largest error is 1/225 of the largest value of a block of 32, if that is at least 0.0078: the float16
    scale of smaller blocks has fewer bits.
    """
    blocks = weight.float().unflatten(-1, (-1, 32))
    scale = (blocks.abs().amax(dim=-1, keepdim=True) / 127).half()
    # The codes are found with the rounded scale, by which they will be multiplied.
    codes = (blocks / scale.float().clamp(min=1e-12)).round().clamp(-127, 127).to(torch.int8)
    return torch.cat((scale.view(torch.uint8), codes.view(torch.uint8)), dim=-1).flatten(-2)


def _float16(blocks: Tensor, start: int, count: int = 1) -> Tensor:
    """``count`` float16 numbers that begin at byte ``start`` of each block, as float32 (n, count)."""
    return blocks[..., start : start + 2 * count].contiguous().view(torch.float16).float()


def _bits(packed: Tensor, width: int, count: int) -> Tensor:
    """The bytes (n, b) as ``count`` fields each, the lowest first, of ``width`` bits: (n, count, b) int32."""
    # Made on the device: a tensor from Python would make the CPU wait for a GPU.
    at = torch.arange(0, count * width, width, device=packed.device, dtype=torch.int32)[:, None]
    return (packed.int()[..., None, :] >> at) & ((1 << width) - 1)


def _nibbles(packed: Tensor) -> Tensor:
    """Four-bit codes (n, 2 b) of bytes (n, b): all low halves, then all high ones."""
    return _bits(packed, 4, 2).flatten(-2)


def _fifth_bits(packed: Tensor) -> Tensor:
    """Bits of four bytes (n, 4), the lowest first, as values 0 and 16: (n, 32)."""
    return _bits(packed, 1, 8).transpose(-1, -2).flatten(-2) << 4


def _q4_0(b: Tensor) -> Tensor:
    return _float16(b, 0) * (_nibbles(b[..., 2:]) - 8)


def _q4_1(b: Tensor) -> Tensor:
    scale, least = _float16(b, 0), _float16(b, 2)
    return scale * _nibbles(b[..., 4:]) + least


def _q5_0(b: Tensor) -> Tensor:
    return _float16(b, 0) * ((_nibbles(b[..., 6:]) | _fifth_bits(b[..., 2:6])) - 16)


def _q5_1(b: Tensor) -> Tensor:
    scale, least = _float16(b, 0), _float16(b, 2)
    return scale * (_nibbles(b[..., 8:]) | _fifth_bits(b[..., 4:8])) + least


def _q8_0(b: Tensor) -> Tensor:
    return _float16(b, 0) * b[..., 2:].contiguous().view(torch.int8).float()


def _q2_k(b: Tensor) -> Tensor:
    scales = b[..., :16].int()
    # Two halves of 32 bytes; each byte has two bits of four groups of 32 values, with a scale for 16.
    codes = _bits(b[..., 16:80].unflatten(-1, (2, 32)), 2, 4).reshape(*b.shape[:-1], 16, 16)
    factor, least = _float16(b, 80), _float16(b, 82)
    scaled, lowered = factor * (scales & 15), least * (scales >> 4)
    return (scaled[..., None] * codes - lowered[..., None]).flatten(-2)


def _q3_k(b: Tensor) -> Tensor:
    high = _bits(b[..., :32], 1, 8)
    low = _bits(b[..., 32:96].unflatten(-1, (2, 32)), 2, 4).flatten(-3, -2)
    # A third bit that is not set means 4 less.
    codes = (low + 4 * high - 4).reshape(*b.shape[:-1], 16, 16)
    raw = b[..., 96:108]
    scales = _nibbles(raw[..., :8]) | _bits(raw[..., 8:], 2, 4).flatten(-2) << 4
    scaled = _float16(b, 108) * (scales - 32)
    return (scaled[..., None] * codes).flatten(-2)


def _six_bits(raw: Tensor) -> tuple[Tensor, Tensor]:
    """The 8 scales and 8 offsets (n, 8) of six bits each that Q4_K and Q5_K pack into 12 bytes."""
    first, second, third = raw.int().unflatten(-1, (3, 4)).unbind(-2)
    scales = torch.cat((first & 63, (third & 15) | (first >> 6) << 4), dim=-1)
    offsets = torch.cat((second & 63, (third >> 4) | (second >> 6) << 4), dim=-1)
    return scales, offsets


def _q4_k(b: Tensor) -> Tensor:
    return _of_eight_groups(b, _bits(b[..., 16:].unflatten(-1, (4, 32)), 4, 2).flatten(-3, -2))


def _q5_k(b: Tensor) -> Tensor:
    low = _bits(b[..., 48:].unflatten(-1, (4, 32)), 4, 2).flatten(-3, -2)
    return _of_eight_groups(b, low | _bits(b[..., 16:48], 1, 8) << 4)


def _of_eight_groups(b: Tensor, codes: Tensor) -> Tensor:
    """Values of the ``codes`` (n, 8, 32) of blocks that begin with two factors and the packed scales."""
    scales, offsets = _six_bits(b[..., 4:16])
    scaled, lowered = _float16(b, 0) * scales, _float16(b, 2) * offsets
    return (scaled[..., None] * codes - lowered[..., None]).flatten(-2)


def _q6_k(b: Tensor) -> Tensor:
    # In each half, 64 bytes hold the low bits of 128 values, and 32 bytes their two high bits.
    low = _bits(b[..., :128].unflatten(-1, (2, 2, 32)), 4, 2).transpose(-2, -3).flatten(-3, -2)
    high = _bits(b[..., 128:192].unflatten(-1, (2, 32)), 2, 4)
    codes = ((low | high << 4) - 32).reshape(*b.shape[:-1], 16, 16)
    scaled = _float16(b, 208) * b[..., 192:208].contiguous().view(torch.int8)
    return (scaled[..., None] * codes).flatten(-2)


def _iq4_nl(b: Tensor) -> Tensor:
    return _float16(b, 0) * _nonlinear(_nibbles(b[..., 2:]))


def _iq4_xs(b: Tensor) -> Tensor:
    high = _bits(b[..., 2:4], 2, 4).transpose(-1, -2).flatten(-2)
    low = _bits(b[..., 4:8], 4, 2).transpose(-1, -2).flatten(-2)
    codes = _nibbles(b[..., 8:].unflatten(-1, (8, 16)))
    scaled = _float16(b, 0) * ((low | high << 4) - 32)
    return (scaled[..., None] * _nonlinear(codes)).flatten(-2)


def _nonlinear(codes: Tensor) -> Tensor:
    return _table(codes.device)[codes]


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _table(device: torch.device) -> Tensor:
    return torch.tensor(_NONLINEAR, dtype=torch.float32, device=device)


_DECODERS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "IQ4_NL": _iq4_nl,
    "IQ4_XS": _iq4_xs,
}
