"""The memory that decoding a video needs, as it is predicted for either kind of video decoder."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DecoderMemory:
    """Bytes that decoding a video needs.

    ``peak`` is the most that is alive at once. ``state`` is the part of it that the decoder caches from one
    piece of the clip (a few consecutive frames) to the next.
    """

    peak: int
    state: int
