"""The source video of a long clip, read in parts, so that it is never in memory as a whole.

Letters: N frames, H W pixel rows and columns.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from ..media import VideoClip, read_video
from ..media.clip_frames import ClipFrames, Frames
from ..media.images import BLACK, Colour
from ..run.input_files import content_files
from ..storage.files import JsonValue
from ..storage.identity import identity, tensor_identity


class FrameSource(Protocol):
    """A video whose frames can be read by their numbers."""

    @property
    def frame_count(self) -> int: ...

    @property
    def identity(self) -> str:
        """A text that identifies the frames, in another process too: equal only for equal frames."""
        ...

    def part(self, first: int, count: int) -> Tensor:
        """Read ``count`` frames from number ``first`` on: (N, 3, H, W) in [0, 1].

        Fewer at the end of the video.
        """
        ...


@dataclass(frozen=True, eq=False)
class FramesInMemory:
    """A source whose frames (N, 3, H, W) in [0, 1] are in memory."""

    frames: Tensor

    @property
    def frame_count(self) -> int:
        return len(self.frames)

    @property
    def identity(self) -> str:
        return tensor_identity(self.frames)

    def part(self, first: int, count: int) -> Tensor:
        return self.frames[first : first + count]


@dataclass(frozen=True, eq=False)
class FramesInFile:
    """A source whose frames are in a video file; frames are decoded when they are read."""

    clip: VideoClip

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, background: Colour = BLACK) -> FramesInFile:
        """Open a video file; transparent pixels are blended with ``background``, RGB in [0, 1].

        Raises what ``read_video`` raises.
        """
        return cls(read_video(path, background=background))

    @property
    def path(self) -> Path:
        return self.clip.path

    @property
    def fps(self) -> float:
        return self.clip.fps

    @property
    def frame_count(self) -> int:
        return self.clip.frame_count

    @property
    def width(self) -> int:
        return self.clip.width

    @property
    def height(self) -> int:
        return self.clip.height

    @property
    def identity(self) -> str:
        # By content and not by path, so that a folder of windows is resumed after its source has moved.
        return identity(content_files(self.path))

    def part(self, first: int, count: int) -> Tensor:
        return self.clip.read(first, count)


def source_frames(source: FrameSource, first: int, count: int) -> Tensor:
    """Read exactly ``count`` frames of a source from number ``first`` on: (N, 3, H, W) in [0, 1].

    Raises ValueError if the source has fewer.
    """
    check_length(source, first + count)
    frames = source.part(first, count)
    # The header of a file may state more frames than can be decoded.
    if len(frames) < count:
        raise ValueError(f"the source ends at frame {first + len(frames)} of {source.frame_count}")
    return frames


def check_length(source: FrameSource, frames: int) -> None:
    """Raise ValueError if a source has fewer than ``frames`` frames."""
    if source.frame_count < frames:
        raise ValueError(
            f"source: it has {source.frame_count} frames and the clip needs {frames}: plan a clip that is "
            "not longer than its source"
        )


def frames_identity(frames: Frames) -> JsonValue:
    """JSON values that identify frames, in memory or in a file, also in another process."""
    if isinstance(frames, ClipFrames):
        return [identity(content_files(frames.clip.path)), *frames.description]
    return tensor_identity(frames)
