"""The interface of readers of video files: frames by their number in the file, converted when needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from torch import Tensor

from .timeline import Timeline


class Stored(NamedTuple):
    """One frame of a file: its ``number`` in the file, from 0, and ``rgb``, a function that converts it.

    ``rgb()`` returns the frame as a tensor (3, H, W): uint8 in [0, 255], or for EXR images float32 with the
    numbers of the file.
    """

    number: int
    # Frames that a lower rate skips have to be decoded, but need not be converted.
    rgb: Callable[[], Tensor]


class StoredFrames(Protocol):
    """A reader of the frames of a file, in the order in which they are displayed.

    ``width`` and ``height`` are the size of the frames in pixels; ``timeline`` has their times.
    """

    @property
    def timeline(self) -> Timeline: ...

    @property
    def width(self) -> int: ...

    @property
    def height(self) -> int: ...

    def stored(self, wanted: int) -> Iterator[Stored]:
        """Yield the frames of the file in order, from number ``wanted`` on.

        The first frame may have a lower number, if frame ``wanted`` itself cannot be decoded.
        """
        ...
