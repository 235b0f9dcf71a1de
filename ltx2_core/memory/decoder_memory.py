"""The memory of a decode, as it is predicted for either kind of video decoder."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DecoderMemory:
    """Peak bytes of a decode (``peak``), and the most that is cached between pieces (``state``)."""

    peak: int
    state: int
