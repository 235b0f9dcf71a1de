"""4-bit integer weights, two in a byte: the low four bits hold the weight of the earlier input feature.

Letters: O output features, I input features, G inputs that share a scale.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

INT8_MAX = 127


def signed_nibbles(packed: Tensor) -> Tensor:
    """Unpack a 4-bit weight, bytes (O, I / 2), to float32 values (O, I) from -8 to 7.

    O outputs, I inputs. The low four bits of a byte are the value of the earlier input.
    """
    codes = nibbles(packed)
    return torch.where(codes >= 8, codes - 16, codes).float()


def nibbles(packed: Tensor) -> Tensor:
    """Unpack a 4-bit weight, bytes (O, I / 2), to int32 codes (O, I) from 0 to 15.

    O outputs, I inputs. The low four bits of a byte are the code of the earlier input.
    """
    codes = packed.view(torch.uint8)
    halves = torch.stack([codes & 15, codes >> 4], dim=-1)
    return rearrange(halves, "o i half -> o (i half)").to(torch.int32)


def packed_nibbles(codes: Tensor) -> Tensor:
    """Pack 4-bit codes (O, I), from 0 to 15 or from -8 to 7, to int8 bytes (O, I / 2).

    O outputs, I inputs. The code of the earlier input goes into the low four bits of a byte; negative codes
    are stored as two's complement.
    """
    low, high = rearrange(codes.int() & 15, "o (i half) -> half o i", half=2)
    packed: Tensor = low | high << 4
    return packed.to(torch.uint8).view(torch.int8)


def grouped_values(
    name: str, packed: Tensor, rel: Tensor, channel: Tensor, codebook: Tensor | None
) -> Tensor:
    """Decode the rotated weight (O, I) of layer ``name``, stored as 4-bit codes of int8 values (W4A8).

    O outputs, I inputs; G inputs of an output share a scale. ``packed`` (O, I / 2) holds two codes per byte.
    ``rel`` (O, I / G) scales the value of a code to int8, and ``channel`` (O,) scales int8 to the weight.
    ``codebook`` (16,) has the values of the codes; None stands for -8 to 7. The rotation is not undone.
    Raises ValueError if the scales do not fit the weight.
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
