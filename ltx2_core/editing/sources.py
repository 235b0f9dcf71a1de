"""A clip that a long one follows, read part by part, so that it never is in memory as a whole.

Letters: N pictures, H W pixel rows and columns.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from ..media import fit_image, read_video


class FrameSource(Protocol):
    """Pictures by their number."""

    @property
    def frame_count(self) -> int: ...

    @property
    def identity(self) -> str:
        """Another text for other pictures, the same one when the program is started again."""
        ...

    def part(self, first: int, count: int) -> Tensor:
        """Pictures (N, 3, H, W) in [0, 1], ``count`` of them from ``first`` on."""
        ...


@dataclass(frozen=True, eq=False)
class FramesInMemory:
    """Pictures (N, 3, H, W) in [0, 1] that are in memory."""

    frames: Tensor

    @property
    def frame_count(self) -> int:
        return len(self.frames)

    @property
    def identity(self) -> str:
        return f"{tuple(self.frames.shape)} {sum(float(part.double().sum()) for part in self.frames)!r}"

    def part(self, first: int, count: int) -> Tensor:
        return self.frames[first : first + count]


@dataclass(frozen=True, eq=False)
class FramesInFile:
    """A video file."""

    path: Path
    fps: float
    frame_count: int
    width: int
    height: int

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> FramesInFile:
        """Raises what ``read_video`` raises."""
        clip = read_video(path)
        return cls(Path(path), clip.fps, clip.frame_count, clip.width, clip.height)

    @property
    def identity(self) -> str:
        return f"{self.path.name} {self.path.stat().st_size}"

    def part(self, first: int, count: int) -> Tensor:
        return read_video(self.path, start_s=first / self.fps, max_frames=count).read()


def source_frames(reel: FrameSource, first: int, count: int, width: int, height: int) -> Tensor:
    """Pictures of a reel cut to a size. Raises ValueError where it does not have them all."""
    pictures = reel.part(first, count) if first + count <= reel.frame_count else None
    if pictures is None or len(pictures) < count:
        raise ValueError(
            f"the source has {reel.frame_count} frames and the clip needs {first + count}: plan a clip that "
            "is not longer than its source"
        )
    return fit_image(pictures, width, height)
