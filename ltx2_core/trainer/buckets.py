"""Buckets, the sizes and lengths that clips are brought to, by the rules of the official trainer.

Letters: N frames, H W pixel rows and columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..shapes import SPATIAL_SCALE, TEMPORAL_SCALE


class Bucket(NamedTuple):
    """Width and height in pixels, and a number of frames."""

    width: int
    height: int
    frames: int

    @property
    def name(self) -> str:
        return f"{self.width}x{self.height}x{self.frames}"

    def reference(self, space: int, time: int) -> Bucket:
        """The bucket of references that are coarser by ``space`` on each side and by ``time`` in length.

        Raises ValueError if it is not on the latent grid.
        """
        if self.width % (space * SPATIAL_SCALE) or self.height % (space * SPATIAL_SCALE):
            raise ValueError(
                f"bucket {self.name}: {self.width}x{self.height} divided by reference_downscale={space} must "
                f"be multiples of {SPATIAL_SCALE}"
            )
        if (self.frames - 1) % (time * TEMPORAL_SCALE):
            raise ValueError(
                f"bucket {self.name}: frames - 1 must be a multiple of {time * TEMPORAL_SCALE} for "
                f"reference_temporal={time}"
            )
        return Bucket(self.width // space, self.height // space, (self.frames - 1) // time + 1)


def parse_buckets(text: str) -> tuple[Bucket, ...]:
    """Read buckets such as ``768x512x49;512x768x49``: width, height and frames of each.

    Raises ValueError unless sizes are multiples of 32 and lengths 8k + 1.
    """
    buckets = []
    for part in text.split(";"):
        numbers = part.strip().split("x")
        if len(numbers) != 3 or not all(number.isdecimal() for number in numbers):
            raise ValueError(f"bucket {part.strip()!r} is not WIDTHxHEIGHTxFRAMES, such as 768x512x49")
        bucket = Bucket(*(int(number) for number in numbers))
        if min(bucket) < 1 or bucket.width % SPATIAL_SCALE or bucket.height % SPATIAL_SCALE:
            raise ValueError(f"bucket {bucket.name}: width and height must be multiples of {SPATIAL_SCALE}")
        if bucket.frames % TEMPORAL_SCALE != 1:
            near = max(1, (bucket.frames - 1) // TEMPORAL_SCALE * TEMPORAL_SCALE + 1)
            raise ValueError(
                f"bucket {bucket.name}: the frames must be 8k + 1, such as {near} or {near + TEMPORAL_SCALE}"
            )
        buckets.append(bucket)
    return tuple(buckets)


def choose_bucket(buckets: Sequence[Bucket], width: int, height: int, frames: int) -> Bucket | None:
    """The bucket of a clip of ``width`` x ``height`` pixels and ``frames``; None if all are longer.

    Of those that are not longer than the clip it is the one nearest in proportions, then the longest, then
    the largest.
    """
    fitting = [bucket for bucket in buckets if bucket.frames <= frames]
    proportions = math.log(width / height)
    return min(
        fitting,
        key=lambda b: (abs(proportions - math.log(b.width / b.height)), -b.frames, -b.width * b.height),
        default=None,
    )


def own_buckets(
    buckets: Sequence[Bucket], width: int, height: int, max_pixels: int, multiple: int
) -> list[Bucket]:
    """Buckets of the size of a clip of ``width`` x ``height`` pixels, with the lengths of ``buckets``.

    The size is shrunk to at most ``max_pixels`` and cut to multiples of ``multiple``. Only clips with a side
    below ``multiple`` are enlarged.
    """
    scale = min(1.0, math.sqrt(max_pixels / (width * height)))
    columns, rows = (max(multiple, int(size * scale) // multiple * multiple) for size in (width, height))
    return [Bucket(columns, rows, frames) for frames in sorted({bucket.frames for bucket in buckets})]


class Crop(NamedTuple):
    """The size in pixels that frames are resized to, and the corner of what is cut out of them."""

    rows: int
    columns: int
    top: int
    left: int


Place = tuple[float, float]
"""Where a bucket is cut out of frames that are larger, from 0 (left, top) to 1 (right, bottom)."""

CENTRE: Place = (0.5, 0.5)


def random_place(seed: int, *numbers: int) -> Place:
    """A random place that depends on ``seed`` and ``numbers`` alone."""
    digest = sha256(repr((seed, *numbers)).encode()).digest()
    across, down = (int.from_bytes(digest[start : start + 6], "big") / 2**48 for start in (0, 6))
    return across, down


def crop_of(width: int, height: int, bucket: Bucket, place: Place = CENTRE) -> Crop:
    """How frames of ``width`` x ``height`` pixels are scaled to cover ``bucket`` and cut at ``place``."""
    if width / height > bucket.width / bucket.height:
        rows, columns = bucket.height, int(width * bucket.height / height)
    else:
        rows, columns = int(height * bucket.width / width), bucket.width
    # Rounding down may lose the last pixel of a side that should fit exactly.
    rows, columns = max(rows, bucket.height), max(columns, bucket.width)
    left, top = int((columns - bucket.width) * place[0]), int((rows - bucket.height) * place[1])
    return Crop(rows, columns, top, left)


def resize(frames: Tensor, bucket: Bucket, place: Place = CENTRE) -> Tensor:
    """Bring frames (N, C, H, W) in [0, 1] to the size of ``bucket``: bicubic with antialiasing, then cut.

    What is cut out of larger frames is at ``place``.
    """
    rows, columns, top, left = crop_of(frames.shape[3], frames.shape[2], bucket, place)
    if frames.shape[2:] != (rows, columns):
        # The bicubic filter overshoots at edges.
        frames = F.interpolate(
            frames, size=(rows, columns), mode="bicubic", align_corners=False, antialias=True
        ).clamp(0, 1)
    return frames[..., top : top + bucket.height, left : left + bucket.width]


def official_mask(frames: Tensor, bucket: Bucket, *, image: bool = False) -> Tensor:
    """Bring a mask (N, 1, H, W) to the size of ``bucket`` as officially: distorted, not cut."""
    size = (bucket.height, bucket.width)
    if image:
        return F.interpolate(frames, size=size, mode="bilinear", align_corners=False, antialias=True)
    return F.interpolate(frames, size=size, mode="nearest")


def reference_frames(frames: int, time: int) -> list[int]:
    """The frames of a clip that a reference of every ``time``-th frame has: the first, then from 1 on."""
    return [0, *range(1, frames, time)]


def latent_audio_mask(waveform: Tensor, latents: int) -> Tensor:
    """Reduce a mask of audio, a waveform (C, S) of 1 where audio is known, to ``latents`` values of 0 and 1.

    The nearest sample counts, as in the official trainer.
    """
    levels = waveform.abs().mean(dim=0)[None, None]
    return (F.interpolate(levels, size=latents, mode="nearest")[0, 0] > 0.5).float()


def latent_mask(frames: Tensor, *, official: bool = False) -> Tensor:
    """Reduce a mask (N, 1, H, W), 1 where content is known, to latent cells: (F, H / 32, W / 32) of 0 and 1.

    A cell is known if more than half of it is, in any of its frames. Latent frame 0 is the first frame alone
    and each later one has 8 frames. ``official`` groups 8 frames from the first one on, which shifts the mask
    by up to 7 frames, as the official trainer does.
    """
    cells = F.avg_pool2d(frames, SPATIAL_SCALE)[:, 0]
    if official:
        groups = cells.split(TEMPORAL_SCALE)
    else:
        groups = (cells[:1], *cells[1:].split(TEMPORAL_SCALE)) if len(cells) > 1 else (cells,)
    return (torch.stack([group.amax(dim=0) for group in groups]) > 0.5).float()
