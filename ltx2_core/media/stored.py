"""The interface of readers of video files: stored frames by number, converted to RGB when needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from torch import Tensor

from .timeline import Timeline


class Stored(NamedTuple):
    """A frame as a file stores it: its number, and a function that converts it to (3, H, W) uint8 RGB."""

    number: int
    # Frames that a lower rate skips have to be decoded, but need not be converted.
    rgb: Callable[[], Tensor]


class StoredFrames(Protocol):
    """Reads the stored frames of a file in the order in which they are shown."""

    @property
    def timeline(self) -> Timeline: ...

    @property
    def width(self) -> int: ...

    @property
    def height(self) -> int: ...

    def stored(self, wanted: int) -> Iterator[Stored]:
        """Yield stored frames from number ``wanted`` on.

        The first may have a lower number, if ``wanted`` itself cannot be decoded.
        """
        ...
