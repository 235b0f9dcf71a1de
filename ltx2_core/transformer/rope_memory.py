"""A cache of rotary tables from step to step, in which a table is found by the positions it was made for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .modality import Modality
from .rope import Rope
from .rope_tables import RopeTables
from .runner import Network

_Stream = tuple[Rope | None, Rope | None]

_LIMITS = {False: 1, True: 2}
"""Clips of video (False) and of audio (True): guidance alternates between audio with and without a reference,
and tables of audio are small.
"""


@dataclass(eq=False)
class RopeMemory:
    """A cache of one transformer's rotary tables for the last clip: 0.4 GB for 1920x1088x121 in bfloat16.

    Tables are found by the values of the positions, so that callers may compute equal positions again in
    every step; comparing them takes next to no time on the CPU. While gradients are enabled, or in a call
    compiled by ``torch.compile``, nothing is cached.
    """

    computed: int = 0
    """How many tables of a stream were computed so far."""
    _cached: dict[bool, list[tuple[Any, Tensor, _Stream]]] = field(default_factory=dict)

    @property
    def kept(self) -> int:
        """How many entries are cached; each holds the tables of one stream (video or audio) of a clip."""
        return sum(map(len, self._cached.values()))

    def tables(self, model: Network, video: Modality | None, audio: Modality | None) -> RopeTables:
        """The rotary tables of ``model`` for the tokens of these streams, from the cache or computed.

        They have the dtype and the device of the tokens. A stream that is None or empty has no table.
        """
        present = [
            stream if stream is not None and stream.tokens.shape[1] else None for stream in (video, audio)
        ]
        both = None not in present
        (own, cross), (other, other_cross) = (
            (None, None) if stream is None else self._stream(model, stream, audio=number == 1, cross=both)
            for number, stream in enumerate(present)
        )
        return RopeTables(video=own, audio=other, video_cross=cross, audio_cross=other_cross)

    def clear(self) -> None:
        """Free all tables."""
        self._cached.clear()

    def _stream(self, model: Network, stream: Modality, *, audio: bool, cross: bool) -> _Stream:
        positions, dtype, device = stream.positions, stream.tokens.dtype, stream.tokens.device
        # Tables with gradients or of a compiled call belong to that call alone.
        caches = not (torch.is_grad_enabled() or torch.compiler.is_compiling())
        cached, key = self._cached.setdefault(audio, []), (positions.shape, dtype, device, cross)
        if caches:
            for place, (known, same, tables) in enumerate(cached):
                if known == key and torch.equal(same.to(positions.device), positions):
                    # The table that was used last moves to the end, since the front is freed first.
                    cached.append(cached.pop(place))
                    return tables
            # Old tables are freed before new ones are computed, so that both are never in memory.
            del cached[: len(cached) + 1 - _LIMITS[audio]]
        computed = model.stream_tables(
            positions.to(device), audio=audio, cross=cross, dtype=dtype, device=device
        )
        self.computed += 1
        if caches:
            cached.append((key, positions, computed))
        return computed
