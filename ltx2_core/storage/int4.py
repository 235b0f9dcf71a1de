"""4-bit integer weights, two in a byte: the low four bits hold the weight of the earlier input feature.

Letters: O output features, I input features, G inputs that share a scale.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

INT8_MAX = 127


def signed_nibbles(packed: Tensor) -> Tensor:
    """Unpack bytes (O, I / 2) to float32 values (O, I) from -8 to 7."""
    codes = nibbles(packed)
    return torch.where(codes >= 8, codes - 16, codes).float()


def nibbles(packed: Tensor) -> Tensor:
    """Unpack bytes (O, I / 2) to codes (O, I) from 0 to 15."""
    codes = packed.view(torch.uint8)
    halves = torch.stack([codes & 15, codes >> 4], dim=-1)
    return rearrange(halves, "o i half -> o (i half)").to(torch.int32)


def packed_nibbles(codes: Tensor) -> Tensor:
    """Pack codes (O, I) to int8 bytes (O, I / 2); of negative codes the lowest four bits are stored."""
    low, high = rearrange(codes.int() & 15, "o (i half) -> half o i", half=2)
    packed: Tensor = low | high << 4
    return packed.to(torch.uint8).view(torch.int8)


def grouped_values(
    name: str, packed: Tensor, rel: Tensor, channel: Tensor, codebook: Tensor | None
) -> Tensor:
    """Decode the rotated weight (O, I) of layer ``name``, stored as 4-bit codes of int8 values (W4A8).

    ``packed`` holds the codes, two in a byte. ``rel`` (O, I / G) scales the value of a code to int8, and
    ``channel`` (O,) scales int8 to the weight. ``codebook`` (16,) has the values of codes; with None they run
    from -8 to 7. Raises ValueError if the scales do not fit the weight.
    """
    codes = nibbles(packed)
    rows, columns = codes.shape
    scales = rel.view(torch.float8_e4m3fn) if rel.dtype == torch.uint8 else rel
    if scales.ndim != 2 or len(scales) != rows or columns % scales.shape[1] or channel.numel() != rows:
        raise ValueError(
            f"{name}: scales of shape {tuple(rel.shape)} and {tuple(channel.shape)} do not fit a weight of "
            f"{rows} x {columns}; the file is damaged"
        )
    values = codes.float() - 8 if codebook is None else codebook.float()[codes]
    groups = rearrange(values, "o (n g) -> o n g", n=scales.shape[1]) * scales.float()[..., None]
    # Rounded to the int8 values that are multiplied, which the file stands for.
    whole = groups.round().clamp(-INT8_MAX, INT8_MAX)
    return rearrange(whole, "o n g -> o (n g)") * channel.float().reshape(-1, 1)
