"""Rotary tables from one step to the next, told apart by the positions that they are of."""

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

_KEPT = {False: 1, True: 2}
"""Clips of video and of audio: sound with a reference takes turns with sound without, and is small."""


@dataclass(eq=False)
class RopeMemory:
    """Keeps the tables of the clip that came last, 0.4 GB of 1920x1088x121 in bfloat16.

    One serves one transformer. Positions are compared by value, so that it does not matter who made them;
    on the CPU that takes no time. Where gradients are wanted, or the call is compiled, nothing is kept.
    """

    computed: int = 0
    """Tables of a stream that were made since this was."""
    _kept: dict[bool, list[tuple[Any, Tensor, _Stream]]] = field(default_factory=dict)

    @property
    def kept(self) -> int:
        """Streams whose tables are held."""
        return sum(map(len, self._kept.values()))

    def tables(self, model: Network, video: Modality | None, audio: Modality | None) -> RopeTables:
        """Those of ``model`` for the streams, in the dtype of their tokens and where these are."""
        given = [
            stream if stream is not None and stream.tokens.shape[1] else None for stream in (video, audio)
        ]
        both = None not in given
        (own, cross), (heard, heard_cross) = (
            (None, None) if stream is None else self._stream(model, stream, audio=number == 1, cross=both)
            for number, stream in enumerate(given)
        )
        return RopeTables(video=own, audio=heard, video_cross=cross, audio_cross=heard_cross)

    def clear(self) -> None:
        """Let go of all tables."""
        self._kept.clear()

    def _stream(self, model: Network, stream: Modality, *, audio: bool, cross: bool) -> _Stream:
        positions, dtype, device = stream.positions, stream.tokens.dtype, stream.tokens.device
        keeps = not (torch.is_grad_enabled() or torch.compiler.is_compiling())
        kept, key = self._kept.setdefault(audio, []), (positions.shape, dtype, device, cross)
        if keeps:
            for place, (known, same, tables) in enumerate(kept):
                if known == key and torch.equal(same.to(positions.device), positions):
                    kept.append(kept.pop(place))
                    return tables
            # Before the new ones are made, so that both are never there.
            del kept[: len(kept) + 1 - _KEPT[audio]]
        made = model.stream_tables(positions.to(device), audio=audio, cross=cross, dtype=dtype, device=device)
        self.computed += 1
        if keeps:
            kept.append((key, positions, made))
        return made
