"""What one pass of the diffusion decoder over a clip, or over a tile of it, remembers between its pieces.

B batch, T H W time, rows and columns, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ..streaming import Stream
from .attention import Masks
from .noise import ClipShape, NoiseSource
from .windows import Span


@dataclass(kw_only=True)
class Clip:
    """What all tiles of a clip have in common: its noise, its masks, and its end once that is known.

    ``rows`` is the number of rows in time that the diffusion stage takes of its context; None until the last
    latent frame has arrived.
    """

    size: ClipShape
    noise: NoiseSource
    rows: int | None = None
    masks: Masks = field(default_factory=Masks)


class Cut(NamedTuple):
    """Which sides of a tile are cuts through the frame; beyond other sides the frame ends."""

    top: bool = False
    bottom: bool = False
    left: bool = False
    right: bool = False

    def inner(self, height: int, width: int, reach: tuple[int, int]) -> tuple[Span, Span]:
        """Rows and columns of a tile whose windows end within it.

        ``reach`` is how many rows and columns a window extends from its centre.
        """
        top, bottom = self.top * reach[0], self.bottom * reach[0]
        left, right = self.left * reach[1], self.right * reach[1]
        return Span(top, height - bottom), Span(left, width - right)


WHOLE = Cut()
"""No side is cut: the whole frame."""


class Held(NamedTuple):
    """Consecutive rows in time, in the tensors (B, T, H, W, C) in which they came; ``start`` is the first."""

    start: int = 0
    chunks: tuple[Tensor, ...] = ()

    def and_then(self, chunk: Tensor) -> Held:
        """These rows with those of ``chunk`` behind them."""
        return Held(self.start, (*self.chunks, chunk))

    def rows(self, span: Span) -> Tensor:
        """The rows of ``span``: a view if they came together, else a copy."""
        parts, at = [], self.start
        for chunk in self.chunks:
            first, last = max(span.start - at, 0), min(span.stop - at, chunk.shape[1])
            if first < last:
                parts.append(chunk[:, first:last])
            at += chunk.shape[1]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def since(self, row: int) -> Held:
        """These rows without the tensors that end before ``row``."""
        start, chunks = self.start, self.chunks
        while chunks and start + chunks[0].shape[1] <= row:
            start, chunks = start + chunks[0].shape[1], chunks[1:]
        return Held(start, chunks)


class DecoderStream(Stream):
    """The caches of one pass over a clip, or over a tile of it.

    Besides the rows that each block caches it holds how many rows each stage has seen, and rows that several
    stages read. ``origin`` is the (row, column) in patches of the frame at which the context of a tile
    begins.
    """

    def __init__(self, clip: Clip, *, cut: Cut = WHOLE, origin: tuple[int, int] = (0, 0)) -> None:
        super().__init__(causal=False)
        self.clip = clip
        self.cut = cut
        self.origin = origin
        self.seen: dict[object, int] = {}
        self.held: dict[object, Held] = {}

    def peek(self, owner: object) -> Tensor | None:
        """The rows that ``owner`` caches, which stay cached; None if there are none."""
        return self._cached.get(owner)

    def put(self, owner: object, rows: Tensor) -> None:
        """Cache ``rows`` for ``owner`` as they are, without a copy."""
        if rows.shape[1]:
            self._cached[owner] = rows

    def pass_rows(self, owner: object, rows: int) -> Span:
        """Count ``rows`` more for ``owner``; returns their positions, from the clip's first row on."""
        before = self.seen.get(owner, 0)
        self.seen[owner] = before + rows
        return Span(before, before + rows)

    def hold(self, owner: object, rows: Tensor) -> None:
        """Hold ``rows`` (B, T, H, W, C) behind those that are held for ``owner``."""
        self.held[owner] = self.held.get(owner, Held()).and_then(rows)

    def release(self, owner: object, row: int) -> None:
        """Free what is held for ``owner`` before ``row``."""
        self.held[owner] = self.held[owner].since(row)

    def move(self, device: torch.device) -> None:
        super().move(device)
        self.held = {
            owner: Held(held.start, tuple(chunk.to(device) for chunk in held.chunks))
            for owner, held in self.held.items()
        }
