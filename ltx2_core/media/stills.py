"""Reads clips that are made of still images: animated WebP files, and folders of numbered images.

Letters: H W pixel rows and columns.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import accumulate
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from .container import check_pixels, first_bytes
from .exr import SUFFIX, check_exr_size, read_exr
from .images import Colour, load_image
from .stored import Stored
from .timeline import Timeline, timeline_of

# The rate of film; that of FFmpeg for numbered images is 25.
FOLDER_FPS = 24
"""The frame rate of a folder of images, which states none."""

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
MILLISECOND = Fraction(1, 1000)


@dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """A folder of images as a clip at ``FOLDER_FPS`` frames/s, in the order of the numbers in their names.

    Transparent pixels are blended with ``background``, RGB in [0, 1].
    """

    files: tuple[Path, ...]
    timeline: Timeline
    width: int
    height: int
    background: Colour

    @classmethod
    def open(cls, folder: Path, background: Colour) -> ImageFolder:
        """List the images of a folder; the first one decides the size.

        Raises ValueError if the folder contains none. Transparent pixels will be blended with ``background``,
        RGB in [0, 1].
        """
        files = sorted((f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES), key=_natural)
        if not files:
            raise ValueError(f"{folder} is a folder without images: choose a video file, or a folder of PNGs")
        rate = Fraction(FOLDER_FPS)
        timeline = timeline_of(range(len(files)), 1 / rate, start_s=0.0, last_ticks=1, declared=[rate])
        # The size of the first image is that of the clip.
        rows, columns = load_image(files[0]).shape[2:]
        return cls(files=tuple(files), timeline=timeline, width=columns, height=rows, background=background)

    def stored(self, wanted: int) -> Iterator[Stored]:
        for number in range(wanted, len(self.files)):
            yield Stored(number, partial(self._read, self.files[number]))

    def _read(self, file: Path) -> Tensor:
        frame = _bytes(load_image(file, background=self.background))
        _check_same_size(file, (frame.shape[2], frame.shape[1]), (self.width, self.height))
        return frame


@dataclass(frozen=True, kw_only=True)
class ExrFolder:
    """A folder of EXR images as a clip at a constant rate, ordered by the numbers in their file names.

    Its frames have the pixel values that the files store, unchanged, in float32: light or codes of light,
    which may lie below 0 or above 1.
    """

    files: tuple[Path, ...]
    timeline: Timeline
    width: int
    height: int

    @classmethod
    def open(cls, folder: Path, fps: float | None) -> ExrFolder:
        """List the images of a folder, played at ``fps`` (by default ``FOLDER_FPS``).

        Raises ValueError if one of them has another size than the first, or cannot be read.
        """
        files = sorted((f for f in folder.iterdir() if f.suffix.lower() == SUFFIX), key=_natural)
        sizes = [check_exr_size(file) for file in files]
        for file, size in zip(files, sizes, strict=True):
            _check_same_size(file, size, sizes[0])
        rate = Fraction(FOLDER_FPS if fps is None else fps).limit_denominator(1001)
        timeline = timeline_of(range(len(files)), 1 / rate, start_s=0.0, last_ticks=1, declared=[rate])
        return cls(files=tuple(files), timeline=timeline, width=sizes[0][0], height=sizes[0][1])

    def stored(self, wanted: int) -> Iterator[Stored]:
        for number in range(wanted, len(self.files)):
            yield Stored(number, partial(self._read, self.files[number]))

    def _read(self, file: Path) -> Tensor:
        return read_exr(file)[0]


@dataclass(frozen=True, kw_only=True)
class AnimatedWebP:
    """An animated WebP file as a clip; Pillow decodes it, because not every FFmpeg can.

    Transparent pixels are blended with ``background``, RGB in [0, 1].
    """

    path: Path
    timeline: Timeline
    width: int
    height: int
    background: Colour

    @classmethod
    def open(cls, path: Path, background: Colour) -> AnimatedWebP:
        """Open an animated WebP file. Raises ValueError if the file is damaged or its frames are too large.

        Transparent pixels will be blended with ``background``, RGB in [0, 1].
        """
        try:
            with Image.open(path) as image:
                width, height = image.size
                check_pixels(path, width, height)
                durations = list(_durations(image))
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"cannot read {path} as an animation: {error}") from error
        ticks = [0, *accumulate(durations[:-1])]
        # Durations are whole milliseconds, so that 24 fps alternates 41 and 42: only their mean is the rate.
        typical = Fraction(1000 * len(durations), sum(durations))
        timeline = timeline_of(ticks, MILLISECOND, start_s=0.0, last_ticks=durations[-1], declared=[typical])
        return cls(path=path, timeline=timeline, width=width, height=height, background=background)

    def stored(self, wanted: int) -> Iterator[Stored]:
        with Image.open(self.path) as image:
            for number in range(wanted, len(self.timeline.times)):
                # Frames of an animation may be stored as differences, so that each is decoded in turn.
                try:
                    image.seek(number)
                    frame = _bytes(load_image(image, background=self.background))
                except (OSError, SyntaxError) as error:
                    raise ValueError(f"{self.path} is damaged: {error}; convert it again") from error
                # Not the frame alone: the reader may change the pixels of what a call returns.
                yield Stored(number, partial(torch.clone, frame))


def _durations(image: Image.Image) -> Iterator[int]:
    """Yield for how many milliseconds each frame of an animation is displayed, at least 1.

    This decodes every frame.
    """
    for number in range(getattr(image, "n_frames", 1)):
        image.seek(number)
        image.load()
        # A duration of 0 would give two frames the same time.
        yield max(int(image.info.get("duration", 0)), 1)


def is_animated_webp(path: Path) -> bool:
    # Byte 20 holds the flags of the VP8X chunk, and bit 1 of them says that there is an animation.
    head = first_bytes(path, 21)
    return head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and len(head) > 20 and bool(head[20] & 2)


def _bytes(image: Tensor) -> Tensor:
    """Convert an image (1, 3, H, W) in [0, 1] to (3, H, W) uint8."""
    # Rounded, so that bytes that were read as floats come back as they were.
    return (image[0] * 255).round().to(torch.uint8)


def _check_same_size(file: Path, size: tuple[int, int], first: tuple[int, int]) -> None:
    """Raise ValueError if an image of a folder is not as large (width, height) as the first one."""
    if size != first:
        raise ValueError(
            f"{file} is {size[0]} x {size[1]} and the images before it are {first[0]} x {first[1]}: a folder "
            "of images is one clip of one size"
        )


def _natural(path: Path) -> list[int | str]:
    """A sort key for names with numbers: frame9 comes before frame10."""
    parts = re.split(r"(\d+)", path.name)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)]
