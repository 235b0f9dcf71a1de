"""HLG masters (video in the HDR form Hybrid Log-Gamma): linear light to the signal of BT.2100 and 10 bits.

Letters: N frames, H W pixel rows and columns.
"""

from __future__ import annotations

import math
from typing import Any

import av
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .hdr_space import Primaries, codes_to_rec709, to_rec2020

PRIMARIES, TRANSFER, MATRIX = 9, 18, 9
"""FFmpeg's numbers of BT.2020 primaries, of the transfer function HLG (ARIB STD-B67) and of the BT.2020
matrix."""

_A, _B, _C = 0.17883277, 0.28466892, 0.55991073
WHITE_SIGNAL = 0.75
"""The HLG signal, in [0, 1], of diffuse white, as BT.2408 recommends."""
_WHITE = (math.exp((WHITE_SIGNAL - _C) / _A) + _B) / 12
"""Scene light that has the signal ``WHITE_SIGNAL``, on a scale on which the brightest light is 1."""
_ROLL = _WHITE / (1 - _WHITE)
"""Rate of the exponential curve above white, at which it continues the straight line below without a bend."""

_RED, _BLUE = 0.2627, 0.0593


def hlg_signal(light: Tensor, primaries: Primaries = "rec709") -> Tensor:
    """Linear light (..., 3, H, W) of ``primaries`` -> HLG signal in [0, 1] on the primaries of BT.2020.

    Light up to diffuse white (1) is scaled so that white has the signal 0.75. Brighter light approaches 1 by
    an exponential curve and is never cut off.
    """
    x = to_rec2020(light, primaries).clamp(min=0)
    x = torch.where(x <= 1, x * _WHITE, 1 - (1 - _WHITE) * torch.exp(-_ROLL * (x - 1)))
    # The clamps only make the branch that is not chosen finite.
    log = _A * torch.log((12 * x - _B).clamp(min=1e-12)) + _C
    return torch.where(x <= 1 / 12, torch.sqrt(3 * x), log).clamp(0, 1)


def planes_of(signal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Signal (N, 3, H, W) in [0, 1], H and W even -> 10-bit planes Y (N, H, W), U and V (N, H/2, W/2), int32.

    The matrix is that of BT.2020 (non-constant luminance), the range the limited one of studios: 64 to 940
    for Y, 64 to 960 for U and V. Each value of U and V is the mean of 2 x 2 pixels.
    """
    red, green, blue = signal.float().unbind(1)
    y = _RED * red + (1 - _RED - _BLUE) * green + _BLUE * blue
    u, v = (blue - y) / (2 - 2 * _BLUE), (red - y) / (2 - 2 * _RED)
    colour = F.avg_pool2d(torch.stack((u, v), dim=1), 2)
    levels = (y * 876 + 64, colour[:, 0] * 896 + 512, colour[:, 1] * 896 + 512)
    first, second, third = (one.round().clamp(0, 1023).to(torch.int32) for one in levels)
    return first, second, third


def hlg_frame(codes: Tensor, number: int) -> Any:
    """Convert one frame of an HDR clip to the HLG signal, as a PyAV frame with pixel format ``yuv420p10le``.

    ``codes`` (3, H, W), H and W even, are float in [-1, 1] as the video decoder returns them: ACEScct codes
    that were scaled from [0, 1]. ``number`` is that of the frame in the clip, for the message. Raises
    ValueError for NaN and infinite values.
    """
    frame = checked_codes(codes, number)
    planes = planes_of(hlg_signal(codes_to_rec709(frame))[None])
    av_frame = av.VideoFrame(codes.shape[2], codes.shape[1], "yuv420p10le")
    for plane, levels in zip(av_frame.planes, planes, strict=True):
        rows = np.zeros((plane.height, plane.line_size // 2), np.uint16)
        rows[:, : plane.width] = levels[0].numpy()
        plane.update(rows.tobytes())
    av_frame.colorspace, av_frame.color_range = MATRIX, 1
    for name, value in (("color_primaries", PRIMARIES), ("color_trc", TRANSFER)):
        # Older PyAV cannot set these on a frame.
        if hasattr(av_frame, name):
            setattr(av_frame, name, value)
    return av_frame


def checked_codes(frame: Tensor, number: int) -> Tensor:
    """Convert a frame that the video decoder returned in [-1, 1] to ACEScct codes in [0, 1].

    The codes are float32 on the CPU, of the shape of ``frame``, which may be any. ``number`` is that of the
    frame in the clip, for the message. Raises ValueError for frames that are not float, and for NaN and
    infinite values.
    """
    if not frame.is_floating_point():
        raise ValueError(f"HDR frames are float in [-1, 1]; got {frame.dtype}")
    codes = (frame.detach().cpu().float() + 1) / 2
    if not bool(codes.isfinite().all()):
        raise ValueError(f"frame {number} holds NaN or infinite values; nothing was saved")
    return codes.clamp(0, 1)
