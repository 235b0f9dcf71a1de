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
    """What all tiles of a clip have in common: its size, its noise, attention masks, and its end once known.

    ``rows`` is how many positions in time the input of the decoder's last upsampler has up to the end of the
    clip; None until the last latent frame has arrived.
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
        """The rows and columns of a tile of ``height`` rows and ``width`` columns that are exact.

        Those are the ones whose attention windows do not cross a cut side. ``reach`` is how many rows and
        columns a window extends from its centre.
        """
        top, bottom = self.top * reach[0], self.bottom * reach[0]
        left, right = self.left * reach[1], self.right * reach[1]
        return Span(top, height - bottom), Span(left, width - right)


WHOLE = Cut()
"""No side is cut: the whole frame."""


class Held(NamedTuple):
    """Consecutive positions in time of one activation, in the tensors (B, T, H, W, C) in which they came.

    ``start`` is the position of the first of them in the clip.
    """

    start: int = 0
    chunks: tuple[Tensor, ...] = ()

    def and_then(self, chunk: Tensor) -> Held:
        """A copy of this value with the positions in ``chunk`` (B, T, H, W, C) behind the others."""
        return Held(self.start, (*self.chunks, chunk))

    def rows(self, span: Span) -> Tensor:
        """The positions ``span`` in time, (B, T, H, W, C): a view if they came in one tensor, else a copy."""
        parts, at = [], self.start
        for chunk in self.chunks:
            first, last = max(span.start - at, 0), min(span.stop - at, chunk.shape[1])
            if first < last:
                parts.append(chunk[:, first:last])
            at += chunk.shape[1]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def since(self, row: int) -> Held:
        """A copy of this value without the tensors that end before position ``row`` in time."""
        start, chunks = self.start, self.chunks
        while chunks and start + chunks[0].shape[1] <= row:
            start, chunks = start + chunks[0].shape[1], chunks[1:]
        return Held(start, chunks)


class DecoderStream(Stream):
    """The caches of one pass over a clip, or over a tile of it.

    Besides what each block caches of its input it holds how many positions in time each stage has seen, and
    activations that several stages read. ``cut`` says which sides of the tile are not sides of the frame.
    ``origin`` is the (row, column), in patches of the frame, at which the diffusion stage's part of the tile
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
        """The tensor (B, T, H, W, C) that the stage ``owner`` caches, which stays there; None without one."""
        return self._cached.get(owner)

    def put(self, owner: object, rows: Tensor) -> None:
        """Cache ``rows`` (B, T, H, W, C) for the stage ``owner`` as they are, without a copy.

        With T = 0 nothing is cached.
        """
        if rows.shape[1]:
            self._cached[owner] = rows

    def pass_rows(self, owner: object, rows: int) -> Span:
        """Note that ``rows`` more positions in time pass the stage ``owner``.

        Returns where they lie, counted from the start of the clip.
        """
        before = self.seen.get(owner, 0)
        self.seen[owner] = before + rows
        return Span(before, before + rows)

    def hold(self, owner: object, rows: Tensor) -> None:
        """Keep ``rows`` (B, T, H, W, C) for several stages to read, behind what is held for ``owner``.

        ``rows`` are the next T positions in time.
        """
        self.held[owner] = self.held.get(owner, Held()).and_then(rows)

    def release(self, owner: object, row: int) -> None:
        """Free the tensors held for ``owner`` that end before position ``row`` in time."""
        self.held[owner] = self.held[owner].since(row)

    def move(self, device: torch.device) -> None:
        super().move(device)
        self.held = {
            owner: Held(held.start, tuple(chunk.to(device) for chunk in held.chunks))
            for owner, held in self.held.items()
        }
