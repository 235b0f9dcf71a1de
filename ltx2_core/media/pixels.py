"""Converts decoded video frames to RGB: upright, with square pixels, without transparency.

Letters: H W pixel rows and columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .container import check_pixels
from .deinterlace import NOTE, PROGRESSIVE, can_deinterlace
from .hdr import CURVES, note_of, tone_mapped
from .images import BLACK, ITU_709, Colour


@dataclass(frozen=True, kw_only=True)
class PixelFormat:
    """How the decoded frames of a stream are converted to RGB.

    ``width`` and ``height`` are the size with square pixels, before rotation; frames of another size are
    scaled to it. Transparent pixels are blended with ``background``, RGB in [0, 1]. ``hdr`` is FFmpeg's
    number of the transfer function if frames have to be tone-mapped, see :mod:`~ltx2_core.media.hdr`.
    ``interlaced`` says that frames have to be deinterlaced first.
    """

    width: int
    height: int
    background: Colour = BLACK
    hdr: int | None = None
    interlaced: bool = False

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for reports that say what the conversion changes, such as HDR to SDR."""
        tone_mapped = () if self.hdr is None else (note_of(self.hdr),)
        return (*tone_mapped, NOTE) if self.interlaced else tone_mapped

    @classmethod
    def of(cls, path: Path, stream: Any, first: Any, background: Colour = BLACK) -> PixelFormat:
        """Find out how to convert a stream from its decoded first frame.

        Raises ValueError for interlaced video if FFmpeg has no filter for it, for frames of floating point
        numbers, and for frames of more than ``MAX_PIXELS`` pixels. ``path`` is for the message.
        """
        # Streams of several kinds of frames may begin with a progressive one; older PyAV has no field order.
        order = getattr(stream.codec_context, "field_order", PROGRESSIVE)
        interlaced = bool(first.interlaced_frame or order > PROGRESSIVE)
        if interlaced and not can_deinterlace():
            raise ValueError(
                f"{path} is interlaced, and this build of FFmpeg has no bwdif filter: convert it first, for "
                "example with ffmpeg -i IN -vf bwdif -c:a copy OUT.mp4"
            )
        # Such as of EXR and Radiance images; they have no white that could become that of 8 bits.
        if "f32" in first.format.name or "f16" in first.format.name:
            raise ValueError(
                f"{path} holds linear light in floating point numbers ({first.format.name}), which 8 bits "
                "would clip: give a folder of EXR images, or convert it to video"
            )
        # In older PyAV only the codec context has the transfer function, and frames have no such attribute.
        curve = getattr(first, "color_trc", stream.codec_context.color_trc)
        width, height = _square(first.width, first.height, stream.sample_aspect_ratio)
        check_pixels(path, width, height)
        hdr = curve if curve in CURVES else None
        return cls(width=width, height=height, background=background, hdr=hdr, interlaced=interlaced)

    def rgb(self, frame: Any) -> Tensor:
        """Convert a decoded frame of PyAV to upright RGB (3, H, W) uint8."""
        # Older PyAV applies the frame's colour matrix only if source and target are both named.
        options: dict[str, int | str] = {}
        if frame.colorspace == ITU_709:
            options = {"src_colorspace": "ITU709", "dst_colorspace": "ITU601"}
        if (frame.width, frame.height) != (self.width, self.height):
            options |= {"width": self.width, "height": self.height, "interpolation": "BICUBIC"}
        if self.hdr is None:
            pixels = self._opaque(frame, options)
        else:
            pixels = tone_mapped(frame, self.hdr, self.width, self.height)
        # torch takes no array with negative strides, which is what a mirrored one has.
        upright = np.ascontiguousarray(_turned(pixels, _display_matrix(frame)))
        return torch.from_numpy(upright).permute(2, 0, 1).contiguous()

    def _opaque(self, frame: Any, options: Mapping[str, int | str]) -> NDArray[np.uint8]:
        # A palette may have transparent colours, although its pixel format has no alpha component.
        if any(part.is_alpha for part in frame.format.components) or frame.format.name == "pal8":
            rgba: NDArray[np.uint8] = frame.to_ndarray(format="rgba", **options)
            alpha = rgba[..., 3:]
            # A video with an alpha channel that is opaque everywhere needs no blending.
            if alpha.min() < 255:
                share = alpha.astype(np.float32) / 255
                mixed = rgba[..., :3] * share + np.asarray(self.background, np.float32) * 255 * (1 - share)
                opaque: NDArray[np.uint8] = mixed.round().astype(np.uint8)
                return opaque
        rgb: NDArray[np.uint8] = frame.to_ndarray(format="rgb24", **options)
        return rgb


def _square(width: int, height: int, aspect: Fraction | None) -> tuple[int, int]:
    """The (width, height) in square pixels of a frame of ``width`` x ``height`` pixels that are not square.

    ``aspect`` is the width of a pixel divided by its height; None, and ratios beyond 16, count as 1. The side
    along which pixels are longer grows.
    """
    # Ratios beyond these are damage, and would make frames of absurd size.
    if not aspect or aspect == 1 or not Fraction(1, 16) <= aspect <= 16:
        return width, height
    return (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))


def _display_matrix(frame: Any) -> tuple[int, int, int, int] | None:
    """Read the display matrix (a, b, c, d) of a frame; None if it has none.

    The pixel at column p and row q is displayed at x = a p + c q, y = b p + d q.
    """
    # FFmpeg's command line turns frames by a filter; decoders leave them as stored and only attach the
    # matrix.
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return None
    # The matrix is 3 x 3 in rows of (a, b, u), of which u and the last row are not needed for a rotation.
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
    return a, b, c, d


def _turned(pixels: NDArray[np.uint8], matrix: tuple[int, int, int, int] | None) -> NDArray[np.uint8]:
    """Rotate pixels (H, W, 3) by the nearest quarter turn and mirror them, as the display matrix says.

    ``matrix`` is (a, b, c, d) of :func:`_display_matrix`; None leaves the pixels unchanged.
    """
    if matrix is None:
        return pixels
    a, b, c, d = matrix
    # Only quarter turns can be represented without resampling, and phones write no others.
    if abs(a) + abs(d) >= abs(b) + abs(c):
        x, y = a, d
    else:
        pixels, x, y = pixels.transpose(1, 0, 2), c, b
    return pixels[:: -1 if y < 0 else 1, :: -1 if x < 0 else 1]
