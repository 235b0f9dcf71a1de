"""Adds video compression artefacts to an image by one H.264 round trip in memory.

The model was trained on compressed video, and an image without artefacts tends to give a motionless clip.
The settings are those of the LTX-2 repository and of ComfyUI's LTXVPreprocess: libx264, veryfast, yuv420p,
one frame per second.
"""

from __future__ import annotations

from io import BytesIO

import av
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .images import to_bytes_hwc
from .x264 import repeatable_options

# The range of the widget of ComfyUI's LTXVPreprocess, so that its workflows load with the same numbers.
MAX_CRF = 100


def compress_image(frame: Tensor, crf: int) -> Tensor:
    """Compress an image (3, H, W) and decode it again: (3, H', W'), H' and W' rounded down to even numbers.

    The image is uint8, or float in [0, 1]; the result has the same dtype. ``crf`` is the constant rate factor
    of H.264, where more is a stronger compression: 0 returns the image unchanged, 33 is usual for LTX-2.0, 18
    for 2.3 and later; libx264 treats values above 51 as 51. Raises ValueError for a crf outside [0, 100] or
    an image of another shape.
    """
    if not 0 <= crf <= MAX_CRF:
        raise ValueError(f"crf must be 0 (off) to {MAX_CRF}; got {crf}, try 33")
    if frame.ndim != 3 or frame.shape[0] != 3:
        raise ValueError(f"compress_image takes one frame (3, H, W); got shape {tuple(frame.shape)}")
    if crf == 0:
        return frame
    # Chroma is stored at half size, so that both sides must be even.
    rows, columns = (size // 2 * 2 for size in frame.shape[1:])
    if not rows or not columns:
        raise ValueError(f"compress_image needs at least 2x2 pixels; got shape {tuple(frame.shape)}")
    even = frame[:, :rows, :columns]
    # Truncation, not rounding, as in the reference, so that the encoder gets the same bytes.
    pixels = even if frame.dtype == torch.uint8 else (even.float().clamp(0.0, 1.0) * 255.0).to(torch.uint8)
    decoded = torch.from_numpy(_round_trip(to_bytes_hwc(pixels), crf)).permute(2, 0, 1).contiguous()
    decoded = decoded.to(frame.device)
    return decoded if frame.dtype == torch.uint8 else decoded.to(frame.dtype) / 255.0


def _round_trip(pixels: NDArray[np.uint8], crf: int) -> NDArray[np.uint8]:
    with BytesIO() as file:
        with av.open(file, "w", format="mp4") as container:
            options = {"crf": str(crf), "preset": "veryfast", **repeatable_options()}
            # The rate enters libx264's rate control, so that another one would give other artefacts for the
            # same crf.
            stream = container.add_stream("libx264", rate=1, options=options)
            stream.height, stream.width = pixels.shape[:2]
            stream.pix_fmt = "yuv420p"
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
            container.mux(stream.encode(frame))
            # The encoder holds frames back until it is flushed.
            container.mux(stream.encode(None))
        # Only the closed container can be read, because MP4 writes its index at the end.
        file.seek(0)
        with av.open(file) as container:
            return np.asarray(next(container.decode(video=0)).to_ndarray(format="rgb24"), dtype=np.uint8)
