"""The levels of decoded audio as what a node shows: the page draws the waveform below the node."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from torch import Tensor

from ...ltx2_core.media.levels import levels_of

KEY = "ltx2_audio"
"""Under which ``web/wave.js`` finds the levels."""


def shown_levels(track: tuple[Tensor, int] | None) -> dict[str, list[Any]]:
    """What a node shows of ``track``, a waveform (channels, samples) and its rate in Hz; nothing of None."""
    return {} if track is None else {KEY: [asdict(levels_of(*track))]}
