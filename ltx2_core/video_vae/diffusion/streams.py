"""What one pass of the diffusion decoder over a clip, or over a tile of it, remembers between its pieces.

A clip passes the decoder's stages in pieces: a few frames at a time. A "frame" of a tensor is one step of its
time axis, numbered from 0 at the start of the clip. In the diffusion stage, the last one, it is a pixel
frame; in earlier stages it is several pixel frames.

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

    ``length`` is how many frames the input of the decoder's last upsampler has (the layer before the
    diffusion stage); None until the last latent frame has arrived. ``size`` is in pixels and pixel frames.
    """

    size: ClipShape
    noise: NoiseSource
    length: int | None = None
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
    """Consecutive frames of one activation, in the tensors (B, T, H, W, C) in which it came.

    ``chunks`` are those tensors, in order and without gaps. ``start`` is the number of
    the first frame, counted from the start of the clip. A frame is one step of the activation's time axis.
    """

    start: int = 0
    chunks: tuple[Tensor, ...] = ()

    def and_then(self, chunk: Tensor) -> Held:
        """A new Held with the same tensors, followed in time by ``chunk`` (B, T, H, W, C); copies nothing."""
        return Held(self.start, (*self.chunks, chunk))

    def part(self, frames: Span) -> Tensor:
        """The part (B, T, H, W, C) of the held activation at the numbers ``frames``.

        Frame 0 is the start of the clip, whatever is held. The result has all rows and columns of the frame
        or tile. It is a view if all of it came in one tensor, else a copy.
        """
        parts, at = [], self.start
        for chunk in self.chunks:
            first, last = max(frames.start - at, 0), min(frames.stop - at, chunk.shape[1])
            if first < last:
                parts.append(chunk[:, first:last])
            at += chunk.shape[1]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def since(self, frame: int) -> Held:
        """A new Held without the leading tensors that lie wholly before the frame number ``frame``.

        ``frame`` is counted from the start of the clip. A tensor that contains it stays whole. No tensor is
        copied.
        """
        start, chunks = self.start, self.chunks
        while chunks and start + chunks[0].shape[1] <= frame:
            start, chunks = start + chunks[0].shape[1], chunks[1:]
        return Held(start, chunks)


class DecoderStream(Stream):
    """The caches of one pass of the decoder over a clip, or over a tile of the clip's frames.

    It has what each attention block caches of its input; ``seen``, how many frames have passed each stage
    since the start of the clip; and ``held``, activations that several stages read. Each entry has an owner
    as its key: the stage, or the object that stages share, to which it belongs. ``cut`` says which sides of
    the tile are not sides of the frame. ``origin`` is the (row, column), in patches of the frame, at which
    the diffusion stage's part of the tile begins.
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

    def put(self, owner: object, frames: Tensor) -> None:
        """Cache ``frames`` (B, T, H, W, C) for the stage ``owner`` as they are, without a copy.

        With T = 0 nothing is cached.
        """
        if frames.shape[1]:
            self._cached[owner] = frames

    def count(self, owner: object, frames: int) -> Span:
        """Count ``frames`` more frames that arrive at the stage ``owner``.

        Returns their numbers, 0 at the start of the clip.
        """
        before = self.seen.get(owner, 0)
        self.seen[owner] = before + frames
        return Span(before, before + frames)

    def hold(self, owner: object, frames: Tensor) -> None:
        """Hold ``frames`` (B, T, H, W, C) under the key ``owner``, from where several stages read them.

        They are the next T frames of the activation that is held under this key.
        """
        self.held[owner] = self.held.get(owner, Held()).and_then(frames)

    def release(self, owner: object, frame: int) -> None:
        """Free the part of the activation held under the key ``owner`` that is older than number ``frame``.

        ``frame`` counts that activation's frames from the start of the clip. Only tensors that lie wholly
        before it are freed.
        """
        self.held[owner] = self.held[owner].since(frame)

    def move(self, device: torch.device) -> None:
        super().move(device)
        self.held = {
            owner: Held(held.start, tuple(chunk.to(device) for chunk in held.chunks))
            for owner, held in self.held.items()
        }
