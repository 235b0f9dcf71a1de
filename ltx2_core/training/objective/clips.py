"""A batch of encoded clips, and the scale of reference clips against them.

Letters: B batch, C channels, F H W latent frames, rows and columns, T audio latent frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from ...types import TextContext


class Reference(NamedTuple):
    """A batch of reference clips: ``latent`` (B, C, f, h, w), played at ``fps`` frames per second."""

    latent: Tensor
    fps: float


class Factors(NamedTuple):
    """How much coarser a reference is than its clip: in ``space`` along each side, and in ``time``."""

    space: int
    time: int


@dataclass(frozen=True, kw_only=True)
class Clips:
    """A batch of clips of one size and length.

    ``video`` (B, C, F, H, W) and ``audio`` (B, 8, T, 16) are normalised latents, None for an absent stream.
    ``context`` is their text. ``fps`` is the frame rate of the video. Masks, ``video_mask`` (B, F, H, W) and
    ``audio_mask`` (B, T), are 1 where content is known. ``references`` are clips that the video attends to,
    ``audio_references`` latents (B, 8, t, 16) that the audio attends to; conditions take them in this order.
    """

    video: Tensor | None
    audio: Tensor | None
    context: TextContext
    fps: float = 24.0
    video_mask: Tensor | None = None
    audio_mask: Tensor | None = None
    references: tuple[Reference, ...] = ()
    audio_references: tuple[Tensor, ...] = ()


def reference_factors(clip: Tensor, reference: Tensor) -> Factors:
    """How much coarser a reference latent (..., f, h, w) is than the latent (..., F, H, W) of its clip.

    Raises ValueError if rows and columns differ in scale, or if a length does not divide the other.
    """
    (frames, rows, columns), (f, h, w) = clip.shape[-3:], reference.shape[-3:]
    space = max(1, rows // h)
    if (h * space, w * space) != (rows, columns):
        raise ValueError(
            f"a reference of {w}x{h} latent columns and rows does not fit a clip of {columns}x{rows}: both "
            "sides must be smaller by the same whole factor"
        )
    if f == frames:
        return Factors(space, 1)
    if not 2 <= f <= frames or (frames - 1) % (f - 1):
        raise ValueError(
            f"a reference of {f} latent frames does not fit a clip of {frames}: the number after the first "
            "one must divide that of the clip"
        )
    return Factors(space, (frames - 1) // (f - 1))
