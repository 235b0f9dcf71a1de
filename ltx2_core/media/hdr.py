"""Converts HDR frames (PQ, HLG) to SDR by a fixed tone curve, so that every machine gets the same pixels.

Light is in nits (cd/m2). Letters: H W pixel rows and columns.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

CURVES = {16: "PQ (HDR10, Dolby Vision)", 18: "HLG"}
"""FFmpeg's number -> name of each transfer function that is brighter than a display of standard range."""
PQ, HLG = 16, 18

PEAK_NITS = 1000.0
"""Brightest light of the source, in nits, that is told apart; all brighter light becomes white."""
WHITE_NITS = 203.0
"""Light in nits that becomes the white of SDR: the reference white of HDR in BT.2408."""
SDR_GAMMA = 2.4
"""Exponent of the transfer function of an SDR display, BT.1886."""

BT2020, BT709 = 9, 1
_WEIGHTS = {BT2020: (0.2627, 0.0593), 10: (0.2627, 0.0593), BT709: (0.2126, 0.0722)}
"""FFmpeg's number of a colour matrix -> the shares of red and of blue in its luma."""
_TO_709 = np.array(
    [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]],
    np.float32,
)
"""Matrix (3, 3) from linear RGB of BT.2020 to linear RGB of BT.709, as BT.2087 states it."""


def tone_mapped(frame: Any, curve: int, width: int, height: int) -> NDArray[np.uint8]:
    """Convert a decoded HDR frame of PyAV to SDR RGB (height, width, 3) uint8, scaled to this size in pixels.

    ``curve`` is FFmpeg's number of the transfer function, PQ or HLG. The tone curve of BT.2390 compresses the
    light of the brightest channel from at most ``PEAK_NITS`` to at most ``WHITE_NITS``. The other channels
    are scaled by the same factor, so that the hue stays. Light below a tenth of the peak is hardly changed.
    Colours outside BT.709 are clipped.
    """
    light = _light(_rgb(frame, width, height), curve)
    # The gain comes from the brightest channel, not from luminance, so that no channel exceeds white.
    brightest = light.max(axis=-1, keepdims=True)
    nits, share = _compression()
    light *= np.interp(brightest, nits, share).astype(np.float32)
    # After the tone curve, which is defined for the colours of the source; the sums are of linear light.
    if frame.color_primaries == BT2020:
        light = light @ _TO_709.T
    shown = np.clip(light / WHITE_NITS, 0, 1) ** np.float32(1 / SDR_GAMMA)
    mapped: NDArray[np.uint8] = (shown * 255).round().astype(np.uint8)
    return mapped


def note_of(curve: int) -> str:
    """A sentence for reports that says how an HDR video was converted to SDR.

    ``curve`` is FFmpeg's number of the video's transfer function, PQ or HLG.
    """
    return (
        f"HDR ({CURVES[curve]}) is converted to SDR by the curve of BT.2390, from {PEAK_NITS:g} nits to "
        f"{WHITE_NITS:g} nits as white"
    )


def pq_to_nits(signal: Any) -> Any:
    """Convert a PQ signal in [0, 1] to light in nits (SMPTE ST 2084)."""
    power = np.power(np.clip(signal, 0, 1), 32 / 2523)
    ratio = np.maximum(power - 3424 / 4096, 0) / (2413 / 128 - 2392 / 128 * power)
    return 10000 * np.power(ratio, 16384 / 2610)


def nits_to_pq(nits: Any) -> Any:
    """Convert light in nits to a PQ signal in [0, 1] (SMPTE ST 2084)."""
    power = np.power(np.clip(nits, 0, 10000) / 10000, 2610 / 16384)
    return np.power((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power), 2523 / 32)


def _rgb(frame: Any, width: int, height: int) -> Array:
    """Convert a decoded frame of PyAV to RGB (H, W, 3) in [0, 1], scaled to ``width`` x ``height`` pixels.

    The values remain encoded by the frame's transfer function: they are not proportional to light.
    """
    size: dict[str, int | str] = {"width": width, "height": height, "interpolation": "BICUBIC"}
    same_size = (frame.width, frame.height) == (width, height)
    if frame.format.is_rgb:
        rgb = frame.to_ndarray(format="rgb48le", **({} if same_size else size))
        return np.asarray(rgb / np.float32(65535), np.float32)
    # The matrix is applied here, since that of swscale rounds and depends on its version.
    full = frame.reformat(format="yuv444p16le", **({} if same_size else size))
    # Full range uses all 16 bits; studio range 219 and 224 of 256 steps.
    black, luma, chroma = (0, 65535, 65535) if frame.color_range == 2 else (4096, 56064, 57344)
    y = _scaled(full.planes[0], black, luma)
    u, v = (_scaled(plane, 32768, chroma) for plane in full.planes[1:3])
    # HDR without a stated matrix is BT.2020 in practice.
    red, blue = _WEIGHTS.get(frame.colorspace, _WEIGHTS[BT2020])
    r, b = y + 2 * (1 - red) * v, y + 2 * (1 - blue) * u
    g = (y - red * r - blue * b) / (1 - red - blue)
    return np.stack((r, g, b), axis=-1).clip(0, 1)


def _scaled(plane: Any, zero: int, steps: int) -> Array:
    """Scale a plane of 16-bit numbers (H, W) so that ``zero`` becomes 0 and ``zero + steps`` becomes 1.

    Used for video whose black and white are not the lowest and highest number.
    """
    rows = np.frombuffer(plane, np.uint16).reshape(plane.height, -1)[:, : plane.width]
    return np.asarray((rows.astype(np.float32) - zero) / np.float32(steps), np.float32)


def _light(signal: Array, curve: int) -> Array:
    """Convert an RGB signal (H, W, 3) in [0, 1] to the light of a display in nits.

    ``curve`` is FFmpeg's number of the transfer function. PQ states the light itself, up to 10000 nits; HLG
    is converted as BT.2100 says for a display whose brightest light is ``PEAK_NITS``.
    """
    if curve == PQ:
        # 16 bits at most, so that a table has every value.
        light: Array = _pq_table()[(signal * 65535).round().astype(np.uint16)]
        return light
    # The constants of the inverse OETF of HLG; 0.2 below is its system gamma of 1.2 less 1, at 1000 nits.
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    luminance = scene @ np.array([0.2627, 0.6780, 0.0593])
    shown = PEAK_NITS * np.power(luminance, 0.2)[..., None] * scene
    return np.asarray(shown, np.float32)


@cache
def _pq_table() -> Array:
    return np.asarray(pq_to_nits(np.arange(65536) / 65535), np.float32)


@cache
def _compression() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the tone curve as two arrays: light in nits, ascending, and the factor for light of that level.

    The curve is that of BT.2390, section 5.4.1. Light above ``PEAK_NITS`` becomes ``WHITE_NITS``.
    """
    peak, white = nits_to_pq(PEAK_NITS), nits_to_pq(WHITE_NITS) / nits_to_pq(PEAK_NITS)
    # Not from 0, where the factor is 0 / 0; in steps of PQ, which are about equally visible.
    signal = np.linspace(1e-4, 1, 2048)
    # Below the knee the curve is the identity (KS in BT.2390).
    knee = 1.5 * white - 0.5
    t = np.clip((signal - knee) / (1 - knee), 0, 1)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee)
    spline += (-2 * t**3 + 3 * t**2) * white
    nits = pq_to_nits(signal * peak)
    share = pq_to_nits(np.where(signal < knee, signal, spline) * peak) / nits
    # Beyond the peak everything is white.
    beyond = np.array([2.0, 5.0, 10.0])
    return np.append(nits, beyond * PEAK_NITS), np.append(share, share[-1] / beyond)
