"""Cuts and joins of frames and of audio that come in consecutive chunks.

Letters: N frames, H W pixel rows and columns.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def cross_fade(before: Tensor, after: Tensor, at: int, length: int) -> Tensor:
    """Join two tensors along the last axis: ``before`` up to index ``at`` (exclusive), then ``after``.

    Their last axis is time, in samples or frames, and index 0 is the same time in both. The ``length``
    positions before ``at`` fade linearly from ``before`` to ``after``; earlier ones are those of ``before``
    bit for bit.
    """
    # A joint right at the beginning has less before it than the fade is long.
    length = min(length, at)
    # Neither 0 nor 1 occurs, so that every sample of the fade is a mixture.
    weight = torch.arange(1, length + 1, dtype=before.dtype, device=before.device) / (length + 1)
    start = at - length
    mixed = torch.lerp(before[..., start:at], after[..., start:at].to(before), weight)
    return torch.cat((before[..., :start], mixed, after[..., at:].to(before)), dim=-1)


def cropped(chunks: Iterator[Tensor], size: tuple[int, int]) -> Iterator[Tensor]:
    """Crop chunks of frames (frames, 3, height, width) to their top left corner of ``size``.

    ``size`` is (width, height) in pixels.
    """
    width, height = size
    return (chunk[..., :height, :width] for chunk in chunks)


def take(chunks: Iterator[Tensor], first: int, count: int) -> Iterator[Tensor]:
    """Yield, in chunks, the ``count`` frames from number ``first`` on of consecutive ``chunks`` of frames.

    The first axis of a chunk counts frames.
    """
    position, stop = 0, first + count
    for chunk in chunks:
        low, high = max(first - position, 0), min(stop - position, len(chunk))
        position += len(chunk)
        if high > low:
            yield chunk[low:high]
        # The stream is not exhausted, because decoding frames that are dropped takes time.
        if position >= stop:
            return
