"""The frames of a video file as a sequence: slicing it decodes the frames of the slice.

Letters: N frames, H W pixel rows and columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TypeAlias

import torch
from torch import Tensor

from ..storage.files import JsonValue
from .images import FitMode, fit_image, pad_image
from .packets import VideoFile
from .video_in import VideoClip


@dataclass(kw_only=True, eq=False)
class ClipFrames:
    """Frames ``first`` to ``stop - 1`` of a video clip, sliced like a tensor (N, 3, H, W) float32 in [0, 1].

    Only the frames of a slice are in memory. Consecutive slices are decoded without seeking; for any other
    slice decoding starts at the last frame before it that the file stores whole. If ``padding`` is set, a
    (width, height), frames are padded to that size at the right and below, with ``mirrored`` by their
    reflection; if ``size`` is set, a (width, height), they are then fitted to it by the mode ``fit`` of
    :func:`~ltx2_core.media.fit_image`.
    """

    clip: VideoClip
    first: int
    stop: int
    padding: tuple[int, int] | None = None
    size: tuple[int, int] | None = None
    fit: FitMode = "official"
    mirrored: bool = False
    _position: int = field(default=0, init=False, repr=False)
    _decoded: Iterator[Tensor] | None = field(default=None, init=False, repr=False)

    @classmethod
    def of(cls, clip: VideoClip) -> ClipFrames:
        """All frames of a video clip. Raises ValueError if it has none."""
        clip.check_not_empty()
        return cls(clip=clip, first=0, stop=clip.frame_count)

    def __len__(self) -> int:
        return self.stop - self.first

    @property
    def shape(self) -> torch.Size:
        width, height = self.size or self.padding or (self.clip.width, self.clip.height)
        return torch.Size((len(self), 3, height, width))

    @property
    def ndim(self) -> int:
        return 4

    def __getitem__(self, index: slice) -> Tensor:
        """Decode the frames of a slice without a step: (N, 3, H, W) float32 in [0, 1].

        A slice past the end is cut. Raises ValueError if the file is damaged or has fewer frames than its
        packets state.
        """
        # As with tensors, a slice that reaches past the end is cut and no error.
        first, stop, _ = index.indices(len(self))
        frames = list(islice(self._from(first), max(stop - first, 0)))
        # The number of frames is that of the packets, so that fewer decoded frames are not a matter of
        # rounding.
        if len(frames) < stop - first:
            raise ValueError(
                f"{self.clip.path} ends at frame {self.first + first + len(frames)} of "
                f"{self.clip.frame_count}: it is damaged, convert it again"
            )
        self._position = max(stop, first)
        if not frames:
            return torch.zeros(0, *self.shape[1:])
        pixels = self.clip.stacked(frames)
        # In this order, because ``size`` has the proportions of the padded frames, so that fitting crops
        # nothing.
        if self.padding is not None:
            pixels = pad_image(pixels, *self.padding, mirrored=self.mirrored)
        return self.clip.coded(pixels if self.size is None else fit_image(pixels, *self.size, mode=self.fit))

    def split(self, length: int) -> Iterator[Tensor]:
        """Decode all frames in chunks (N, 3, H, W) of ``length`` frames; the last chunk may be shorter."""
        for start in range(0, len(self), length):
            yield self[start : start + length]

    def part(self, first: int, stop: int | None) -> ClipFrames:
        """Return the frames ``first`` to ``stop - 1`` (None: to the end) as another sequence.

        Nothing is decoded.
        """
        low, high, _ = slice(first, stop).indices(len(self))
        return replace(self, first=self.first + low, stop=self.first + max(low, high))

    def padded(self, width: int, height: int, *, mirrored: bool = False) -> ClipFrames:
        """Return these frames padded at the right and below to ``width`` x ``height`` pixels.

        The last row and column are repeated, or with ``mirrored`` the frames are reflected. Neither side may
        be smaller than that of the frames. Nothing is decoded.
        """
        return replace(self, padding=(width, height), mirrored=mirrored)

    def fitted(self, width: int, height: int, fit: FitMode) -> ClipFrames:
        """Return these frames fitted to ``width`` x ``height`` pixels; nothing is decoded.

        ``fit`` is a mode of :func:`~ltx2_core.media.fit_image`, such as "official" or "pad".
        """
        return replace(self, size=(width, height), fit=fit)

    @property
    def is_whole_file(self) -> bool:
        """Whether these are all frames of a video file, at its own size.

        False for a folder of images and for an animated WebP file.
        """
        clip = self.clip
        part = clip.start_s > 0 or clip.max_frames is not None or len(self) < clip.frame_count
        changed = self.size is not None or self.padding is not None
        return not part and not changed and isinstance(clip.source, VideoFile)

    @property
    def description(self) -> list[JsonValue]:
        """JSON values of all settings that decide the pixels of these frames, such as numbers and size.

        The content of the video file decides them too, but is not among the values.
        """
        part = [self.first, self.stop, self.clip.start_s]
        return [*part, self.padding, self.size, self.fit, self.clip.background]

    def _from(self, first: int) -> Iterator[Tensor]:
        """Yield decoded frames (3, H, W), one by one, from number ``first`` of this sequence on."""
        # Opening the file again for each chunk would decode from the keyframe before it, often seconds of
        # video.
        if self._decoded is None or first != self._position:
            self._decoded = self.clip.frames(self.first + first)
            self._position = first
        return self._decoded


@dataclass(frozen=True, eq=False)
class TwiceFrames:
    """Each frame of ``frames`` twice, except the last: 2N - 1 frames of N, sliced like a tensor."""

    frames: Tensor | ClipFrames

    def __len__(self) -> int:
        return 2 * len(self.frames) - 1

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self), *self.frames.shape[1:]))

    def __getitem__(self, index: slice) -> Tensor:
        """The frames of a slice without a step: (N, 3, H, W) float32 in [0, 1]."""
        first, stop, _ = index.indices(len(self))
        each = self.frames[first // 2 : (stop + 1) // 2]
        start = first % 2
        return each.repeat_interleave(2, dim=0)[start : start + max(0, stop - first)]

    def split(self, length: int) -> Iterator[Tensor]:
        """Yield all frames in chunks (N, 3, H, W) of ``length`` frames; the last chunk may be shorter."""
        # Even, so that no frame of a file is decoded for two chunks.
        length += length % 2
        for start in range(0, len(self), length):
            yield self[start : start + length]


Frames: TypeAlias = Tensor | ClipFrames
"""Frames (N, 3, H, W) in [0, 1], in memory or in a file; a slice of either is a tensor."""
