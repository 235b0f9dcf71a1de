"""The layout of LTX-2.5 dynamic frame rates (DFR): canvas, keyframes, and tiles of temporal rounds.

A clip is generated at its frame rate with keyframes at equal distances, the segments. Each temporal round
doubles the frames and samples them in tiles that begin and end at keyframes. All numbers are those of the
official pipeline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..shapes import TEMPORAL_SCALE

SEGMENTS = (32, 24)
"""Frames between two keyframes: the one that adds fewer frames to the clip, the first one where both do."""


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """The frames that are sampled for a clip: ``frames`` of it are its own, ``padded`` all of them."""

    frames: int
    padded: int
    segment: int

    @property
    def keyframes(self) -> tuple[int, ...]:
        """The frames of the generated keyframes: the ends of all segments, the last frame included."""
        return tuple(range(self.segment, self.padded, self.segment))

    def frames_after(self, rounds: int) -> int:
        """Frames of the finished clip after that many temporal rounds."""
        return ((self.frames - 1) << rounds) + 1


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A part of the frames that a temporal round samples, from pixel frame ``start`` to ``end``, inclusive.

    ``anchors`` are frames of keyframes that guide the tile, ``slots`` those of the keyframes it generates, in
    the middle of its segments; both are counted from the beginning of the clip. The first ``dropped`` latent
    frames belong to the tile before this one.
    """

    start: int
    end: int
    anchors: tuple[int, ...]
    slots: tuple[int, ...]
    dropped: int

    @property
    def latent_start(self) -> int:
        return self.start // TEMPORAL_SCALE

    @property
    def latent_end(self) -> int:
        """The index after its last latent frame."""
        return self.end // TEMPORAL_SCALE + 1


def plan_canvas(frames: int) -> Canvas:
    """Plan the canvas of a clip of ``frames``. Raises ValueError unless they are 8k + 1, at least 9."""
    if frames <= TEMPORAL_SCALE or (frames - 1) % TEMPORAL_SCALE:
        raise ValueError(f"a clip with a dynamic frame rate has 8k + 1 frames, at least 9; got {frames}")
    segment = min(SEGMENTS, key=lambda length: -(frames - 1) % length)
    return Canvas(frames=frames, padded=frames + -(frames - 1) % segment, segment=segment)


def anchors_after(keyframes: Sequence[int], slots: Sequence[int] = ()) -> tuple[int, ...]:
    """The frames of the keyframes in a clip of twice as many frames; ``slots`` are those generated last."""
    return tuple(sorted(2 * frame for frame in {*keyframes, *slots}))


def plan_tiles(anchors: Sequence[int], number: int) -> tuple[Tile, ...]:
    """Plan the tiles of temporal round ``number``, from 1, of a clip whose keyframes are at ``anchors``.

    The segments between the keyframes are shared among 2 ** ``number`` tiles, larger shares first, or among
    as many as there are segments. Each tile but the first begins one segment early.
    """
    borders = (0, *anchors)
    count = min(2**number, len(anchors))
    share, rest = divmod(len(anchors), count)
    tiles, first = [], 0
    for index in range(count):
        last = first + share + (index < rest)
        # The lead-in makes the tile continue what the tile before it shows.
        lead = max(0, first - 1)
        own = borders[lead : last + 1]
        tiles.append(
            Tile(
                start=own[0],
                end=own[-1],
                anchors=tuple(frame for frame in own if frame > 0),
                slots=tuple((one + two) // 2 for one, two in pairwise(own)),
                dropped=0 if index == 0 else (borders[first] - own[0]) // TEMPORAL_SCALE + 1,
            )
        )
        first = last
    return tuple(tiles)
