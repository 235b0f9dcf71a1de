"""Makes a still look like a video frame: one H.264 round trip in memory.

The model learned from compressed video; a picture that is too clean tends to stay frozen. The recipe is the
one of the LTX-2 repository and of ComfyUI's LTXVPreprocess: libx264, veryfast, yuv420p, one frame a second.
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

MAX_CRF = 100


def compress_image(frame: Tensor, crf: int) -> Tensor:
    """(3, H, W) -> (3, H', W'), H' and W' floored to even; uint8 stays uint8, float in [0, 1] stays float.

    ``crf`` is the strength: 0 returns the frame as it is, 33 is usual for LTX-2, 18 for 2.3 and later;
    libx264 treats everything above 51 as 51. Floats become bytes by truncation.
    """
    if not 0 <= crf <= MAX_CRF:
        raise ValueError(f"crf must be 0 (off) to {MAX_CRF}; got {crf}, try 33")
    if frame.ndim != 3 or frame.shape[0] != 3:
        raise ValueError(f"compress_image takes one frame (3, H, W); got shape {tuple(frame.shape)}")
    if crf == 0:
        return frame
    rows, columns = (size // 2 * 2 for size in frame.shape[1:])
    if not rows or not columns:
        raise ValueError(f"compress_image needs at least 2x2 pixels; got shape {tuple(frame.shape)}")
    even = frame[:, :rows, :columns]
    pixels = even if frame.dtype == torch.uint8 else (even.float().clamp(0.0, 1.0) * 255.0).to(torch.uint8)
    decoded = torch.from_numpy(_round_trip(to_bytes_hwc(pixels), crf)).permute(2, 0, 1).contiguous()
    decoded = decoded.to(frame.device)
    return decoded if frame.dtype == torch.uint8 else decoded.to(frame.dtype) / 255.0


def _round_trip(pixels: NDArray[np.uint8], crf: int) -> NDArray[np.uint8]:
    with BytesIO() as file:
        with av.open(file, "w", format="mp4") as container:
            options = {"crf": str(crf), "preset": "veryfast", **repeatable_options()}
            stream = container.add_stream("libx264", rate=1, options=options)
            stream.height, stream.width = pixels.shape[:2]
            stream.pix_fmt = "yuv420p"
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        file.seek(0)
        with av.open(file) as container:
            return np.asarray(next(container.decode(video=0)).to_ndarray(format="rgb24"), dtype=np.uint8)
