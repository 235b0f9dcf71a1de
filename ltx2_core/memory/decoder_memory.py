"""The memory that decoding a video needs, as it is predicted for either kind of video decoder."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DecoderMemory:
    """Bytes that decoding needs: at most (``peak``), and in caches between pieces of the clip (``state``)."""

    peak: int
    state: int
