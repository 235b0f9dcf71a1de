"""What one pass of the diffusion decoder over a clip, or over a tile of it, remembers between its pieces.

A clip passes the decoder's stages in pieces: a few steps along the time axis at a time. A "position in time"
is an index on the time axis of the tensor that a stage reads or makes, 0 at the start of the clip. In the
diffusion stage, the last one, it is the number of a pixel frame; in earlier stages one step is several pixel
frames.

Letters: B batch, T H W time, rows and columns, C channels.
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

    ``rows`` is the length of the clip along the time axis, at the input of the decoder's last upsampler (the
    layer before the diffusion stage); None until the last latent frame has arrived. ``size`` is in pixels and
    pixel frames.
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
        """The rows and columns of a tile that are exact: their attention windows do not cross a cut side.

        All are those of the tensor that a stage computes for the tile, which has ``height`` rows and
        ``width`` columns, and are counted from its top left corner. ``reach`` is how many (rows, columns) a
        window extends from its centre.
        """
        top, bottom = self.top * reach[0], self.bottom * reach[0]
        left, right = self.left * reach[1], self.right * reach[1]
        return Span(top, height - bottom), Span(left, width - right)


WHOLE = Cut()
"""No side is cut: the whole frame."""


class Held(NamedTuple):
    """A stretch of one activation along the time axis, in the tensors (B, T, H, W, C) in which it came.

    ``chunks`` are those tensors, in order and without gaps. ``start`` is the index on the time axis at which
    the first one begins, counted from the start of the clip, in steps of this activation: a step is one pixel
    frame in the diffusion stage, several in earlier stages.
    """

    start: int = 0
    chunks: tuple[Tensor, ...] = ()

    def and_then(self, chunk: Tensor) -> Held:
        """A new Held with the same tensors, followed in time by ``chunk`` (B, T, H, W, C); copies nothing."""
        return Held(self.start, (*self.chunks, chunk))

    def rows(self, span: Span) -> Tensor:
        """The part (B, T, H, W, C) of the held activation at the indices ``span`` of its time axis.

        Index 0 is the start of the clip, whatever is held. The result has all rows and columns of the frame
        or tile. It is a view if all of it came in one tensor, else a copy.
        """
        parts, at = [], self.start
        for chunk in self.chunks:
            first, last = max(span.start - at, 0), min(span.stop - at, chunk.shape[1])
            if first < last:
                parts.append(chunk[:, first:last])
            at += chunk.shape[1]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def since(self, row: int) -> Held:
        """A new Held without the leading tensors that lie wholly before index ``row`` of the time axis.

        ``row`` counts the activation's steps in time from the start of the clip (no image row is meant). A
        tensor that contains index ``row`` is kept whole. No tensor is copied.
        """
        start, chunks = self.start, self.chunks
        while chunks and start + chunks[0].shape[1] <= row:
            start, chunks = start + chunks[0].shape[1], chunks[1:]
        return Held(start, chunks)


class DecoderStream(Stream):
    """The caches of one pass of the decoder over a clip, or over a tile of the clip's frames.

    It has what each attention block caches of its input; ``seen``, how many steps along the time axis have
    passed each stage since the start of the clip; and ``held``, activations that several stages read. Each
    entry has an owner as its key: the stage, or the object that stages share, to which it belongs. ``cut``
    says which sides of the tile are not sides of the frame. ``origin`` is the (row, column), in patches of
    the frame, at which the diffusion stage's part of the tile begins.
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
        """Count ``rows`` more steps along the time axis that pass the stage ``owner``.

        Returns their indices on the time axis of that stage's input, 0 at the start of the clip.
        """
        before = self.seen.get(owner, 0)
        self.seen[owner] = before + rows
        return Span(before, before + rows)

    def hold(self, owner: object, rows: Tensor) -> None:
        """Keep ``rows`` (B, T, H, W, C) in ``held``, from where several stages read it, under ``owner``.

        ``rows`` is the next part in time of the activation that is held under this key: T more steps after
        those that are held already.
        """
        self.held[owner] = self.held.get(owner, Held()).and_then(rows)

    def release(self, owner: object, row: int) -> None:
        """Free the part of the activation held under the key ``owner`` that is older than index ``row``.

        ``row`` counts that activation's steps along the time axis from the start of the clip (no image row is
        meant). Only tensors that lie wholly before it are freed.
        """
        self.held[owner] = self.held[owner].since(row)

    def move(self, device: torch.device) -> None:
        super().move(device)
        self.held = {
            owner: Held(held.start, tuple(chunk.to(device) for chunk in held.chunks))
            for owner, held in self.held.items()
        }
