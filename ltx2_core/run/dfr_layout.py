"""The layout of LTX-2.5 DFR (Diffusion Fidelity Rendering): the keyframes of a clip, and its tiles.

A clip is generated at its frame rate with keyframes at equal distances; the frames between two of them are a
segment. Then come temporal rounds: each one doubles the frame rate with the temporal upscaler, and samples
the clip again in tiles that begin and end at keyframes. All numbers are those of the official pipeline; all
frames are pixel frames unless they are called latent frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..shapes import TEMPORAL_SCALE

SEGMENTS = (32, 24)
"""Distances in frames at which keyframes may stand.

A clip takes the one that pads it by fewer frames, the first if both pad it by as many.
"""


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """How many frames are sampled for a clip, before any temporal round doubles them.

    ``frames`` is the length of the clip itself, ``padded`` that with the frames added to fill the last
    segment. ``segment`` is the distance in frames between two keyframes.
    """

    frames: int
    padded: int
    segment: int

    @property
    def keyframes(self) -> tuple[int, ...]:
        """The numbers of the frames that are generated as keyframes: the ends of all segments.

        The last padded frame is one of them, frame 0 is not.
        """
        return tuple(range(self.segment, self.padded, self.segment))

    def frames_after(self, rounds: int) -> int:
        """How many frames the finished clip has after ``rounds`` temporal rounds.

        Each round makes 2N - 1 frames of N: it puts a frame between every two.
        """
        return ((self.frames - 1) << rounds) + 1


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One of the parts in time in which a temporal round samples a clip whose frame rate was just doubled.

    It has the pixel frames ``start`` to ``end``, inclusive. ``anchors`` are the frames of the keyframes that
    guide the tile, ``slots`` those of the keyframes that it generates, in the middle of its segments (the
    frames between two anchors). All are counted from the beginning of the clip. The first ``dropped`` latent
    frames of the result are not used, because the tile before this one has them too.
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
        """The number of the latent frame after the last one of this tile, counted in the whole clip."""
        return self.end // TEMPORAL_SCALE + 1


def plan_canvas(frames: int) -> Canvas:
    """Choose the distance of keyframes for a clip of ``frames`` pixel frames, and how far it is padded.

    Raises ValueError unless ``frames`` is 8k + 1, at least 9.
    """
    if frames <= TEMPORAL_SCALE or (frames - 1) % TEMPORAL_SCALE:
        raise ValueError(f"the DFR pipeline takes a clip of 8k + 1 frames, at least 9; got {frames}")
    segment = min(SEGMENTS, key=lambda length: -(frames - 1) % length)
    return Canvas(frames=frames, padded=frames + -(frames - 1) % segment, segment=segment)


def anchors_after(keyframes: Sequence[int], slots: Sequence[int] = ()) -> tuple[int, ...]:
    """The pixel frames of all keyframes of a clip after its frame rate is doubled, ascending.

    Both arguments are pixel frames of the clip before it is doubled; frame n becomes 2n. ``slots`` are the
    keyframes that the last temporal round generated, ``keyframes`` all others.
    """
    return tuple(sorted(2 * frame for frame in {*keyframes, *slots}))


def plan_tiles(anchors: Sequence[int], number: int) -> tuple[Tile, ...]:
    """Plan the tiles in which temporal round ``number`` (1 is the first) samples a clip.

    ``anchors`` are the keyframes as pixel frames of the clip after this round's doubling, ascending; frame 0
    is not among them, the last frame is. A segment is the frames from one anchor, or frame 0, to the next.
    As in the official pipeline there are 2 ** ``number`` tiles, or one for each segment if there are fewer
    segments. The segments are divided among the tiles in order, as equally as possible, larger shares first.
    Each tile but the first also covers the segment before its share, so that it continues the tile before it.
    """
    borders = (0, *anchors)
    count = min(2**number, len(anchors))
    share, rest = divmod(len(anchors), count)
    tiles, first = [], 0
    for index in range(count):
        last = first + share + (index < rest)
        # The lead-in makes the tile continue the one before it.
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
