"""What a reader of frames offers to a clip: stored frames by number, converted when they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from torch import Tensor

from .timeline import Timeline


class Stored(NamedTuple):
    """A frame as a file stores it: its number, and its conversion to (3, H, W) uint8 RGB."""

    number: int
    rgb: Callable[[], Tensor]


class StoredFrames(Protocol):
    """The frames of a file in the order of presentation."""

    @property
    def timeline(self) -> Timeline: ...

    @property
    def width(self) -> int: ...

    @property
    def height(self) -> int: ...

    def stored(self, wanted: int) -> Iterator[Stored]:
        """Frames from ``wanted`` on; the first may be an earlier one where ``wanted`` cannot be decoded."""
        ...
