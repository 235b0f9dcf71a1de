"""Writes a clip as numbered PNG or EXR images.

Letters: N frames, H W pixel rows and columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
from torch import Tensor

from .atomic import filling, replacing
from .destination import Destination
from .encoder_thread import Check
from .encoding import Encoding, video_encoding
from .exr import write_exr
from .hdr_space import HDR_SPACES
from .hlg import checked_codes
from .images import to_bytes, to_bytes_hwc, to_words_hwc
from .tags import with_png_tags


class ImageWriter:
    """A context manager that writes frames as numbered images, or one frame as one EXR image.

    All of them are written or, if the block fails, none.
    ``width`` and ``height`` are the size of the frames in pixels. Each image contains the tags ``metadata``,
    texts by name. ``frame_count`` is the number of frames written so far. Raises ValueError for an encoding
    that the images cannot have, and what :meth:`Destination.check` raises.
    """

    def __init__(
        self,
        destination: Destination,
        *,
        width: int,
        height: int,
        metadata: Mapping[str, str] | None = None,
        encoding: Encoding | None = None,
    ) -> None:
        chosen = video_encoding(destination.format, encoding or Encoding())
        assert chosen is not None
        self.destination, self.width, self.height = destination, width, height
        self.takes_floats = chosen.deep
        self.frame_count = 0
        self._pixel_format = chosen.pixel_format
        self._space = None if encoding is None or encoding.hdr is None else HDR_SPACES[encoding.hdr]
        self._metadata = dict(metadata or {})
        # Checked when the writer is made, before a run that takes minutes, and not when it is entered.
        destination.check()
        self._stack = ExitStack()
        self._folder: Path | None = None
        self._still: Path | None = None

    def __enter__(self) -> ImageWriter:
        path, own = self.destination.path, self.destination.own_folder
        if self.destination.is_still:
            self._still = self._stack.enter_context(replacing(path))
        else:
            self._folder = self._stack.enter_context(filling(path.parent, own=own))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def write_frames(self, frames: Tensor, *, check: Check | None = None) -> None:
        """Append frames (N, 3, H, W): uint8, or float in [-1, 1] (values outside are clipped).

        Frames of an HDR clip are float: its ACEScct codes, scaled from [0, 1] to [-1, 1]. ``check`` is called
        before each frame and may raise to stop. Raises ValueError if H and W are not the size of the writer,
        and for NaN or infinite values.
        """
        if self._folder is None and self._still is None:
            raise ValueError("the writer is not open; use it in a with block")
        if frames.ndim != 4 or frames.shape[1:] != (3, self.height, self.width):
            raise ValueError(
                f"frames must be (N, 3, {self.height}, {self.width}); got shape {tuple(frames.shape)}"
            )
        for frame in frames:
            if check is not None:
                check()
            path = self._path()
            # Tags are in each image, because a user shares or loads a single one of them.
            if self._space is None:
                path.write_bytes(with_png_tags(self._png(frame), self._metadata))
            else:
                pixels = self._space.of_codes(checked_codes(frame, self.frame_count))
                write_exr(path, pixels, self._space, self._metadata)
            self.frame_count += 1

    def _path(self) -> Path:
        """The path of the next image; raises ValueError if the only image of the destination is written."""
        if self._folder is not None:
            return self._folder / self.destination.image(self.frame_count + 1)
        check_still(self.destination, self.frame_count + 1)
        assert self._still is not None
        return self._still

    def _png(self, frame: Tensor) -> bytes:
        if self.takes_floats:
            pixels = av.VideoFrame.from_ndarray(to_words_hwc(frame, self.frame_count), format="rgb48le")
        else:
            shown = to_bytes(frame[None], first=self.frame_count)[0]
            pixels = av.VideoFrame.from_ndarray(to_bytes_hwc(shown), format="rgb24")
        # An encoder of its own for each image, since a PNG encoder holds back frames.
        encoder = av.CodecContext.create("png", "w")
        encoder.width, encoder.height, encoder.pix_fmt = self.width, self.height, self._pixel_format
        # PNG has no time, but FFmpeg opens no encoder without a time base.
        encoder.time_base = Fraction(1, 25)
        packets = [*encoder.encode(pixels.reformat(format=self._pixel_format)), *encoder.encode(None)]
        return b"".join(map(bytes, packets))


def check_still(destination: Destination, frame_count: int) -> None:
    """Raise ValueError if ``destination`` is one image and the clip has more than one frame."""
    if destination.is_still and frame_count > 1:
        path = destination.path
        raise ValueError(
            f"output={path}: a clip has many frames. Number them ({path.stem}_%05d{path.suffix}), or give a "
            f"folder with a slash at its end ({path.stem}/)"
        )
