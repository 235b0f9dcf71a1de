"""The features that condition the diffusion stage, computed where they are read and never stored."""

from __future__ import annotations

from torch import Tensor, nn

from .layers import Upsample
from .streams import DecoderStream
from .windows import Span

STRIP_BYTES = 16 * 2**20
"""Bytes, roughly, of the part of the diffusion stage's conditioning features that is computed at a time."""


class Context:
    """The context: the features that condition the diffusion stage, one vector for each patch of a frame.

    It is the result of the decoder's last upsampler, ``upsample``, and has one frame for each pixel
    frame. It is never stored: whatever reads a part of it computes that part from the upsampler's input,
    which is a quarter of its size and is held in a :class:`.streams.DecoderStream`, the caches of one decode.
    The blocks of the diffusion stage read parts up to 40 frames apart. Frames are counted from the start of
    the clip; rows and columns are those of patches, counted from the top left corner of the tile that is
    decoded.
    """

    def __init__(self, upsample: Upsample) -> None:
        self.upsample = upsample

    def span(self, features: Span) -> Span:
        """The pixel frames whose context the upsampler makes of the frames ``features`` of its input.

        The context, which the upsampler makes, is what conditions denoising: features with one frame
        for each pixel frame. ``features`` are frames (steps of the time axis) of the upsampler's input, the
        result are pixel frames. Both count from the start of the clip; ``stop`` is exclusive.
        """
        stride = self.upsample.strides[0]
        # The first of the frames of a clip's first features is dropped, so all others are one earlier.
        dropped = stride - 1
        return Span(max(0, stride * features.start - dropped), stride * features.stop - dropped)

    def add(
        self, out: Tensor, projection: nn.Module, stream: DecoderStream, times: Span, corner: tuple[int, int]
    ) -> None:
        """Compute the conditioning features of some patches, project them, and add that to ``out``, in place.

        ``out`` (B, T, H, W, C) has one vector for each patch of the pixel frames ``times``, which are counted
        from the start of the clip. Its first row and column are the (row, column) ``corner`` of the tile, in
        patches. ``projection`` is a linear layer. ``stream`` holds the input of the upsampler that makes the
        features.
        """
        stride = self.upsample.strides
        dropped = stride[0] - 1
        features, first = _cells(Span(times.start + dropped, times.stop + dropped), stride[0])
        held = stream.held[self].part(features)
        columns, left = _cells(Span(corner[1], corner[1] + out.shape[3]), stride[2])
        step = max(2, STRIP_BYTES // max(1, out[:, :, :1].numel() * out.element_size()) // 2 * 2)
        for top in range(0, out.shape[2], step):
            strip = out[:, :, top : top + step]
            rows, above = _cells(Span(corner[0] + top, corner[0] + top + strip.shape[2]), stride[1])
            context = self.upsample(held[:, :, rows.start : rows.stop, columns.start : columns.stop])[
                :, first : first + times.size, above : above + strip.shape[2], left : left + out.shape[3]
            ]
            strip += projection(context)

    def release(self, stream: DecoderStream, frame: int) -> None:
        """Free the upsampler's input for pixel frames before number ``frame``, whose context is not read
        again.

        ``frame`` is counted from the start of the clip. ``stream``, the caches of this decode, holds the
        input of the upsampler, from which the context (what conditions denoising) is computed; what ``frame``
        and later ones need stays there.
        """
        stride = self.upsample.strides[0]
        stream.release(self, (frame + stride - 1) // stride)


def _cells(span: Span, stride: int) -> tuple[Span, int]:
    """Which cells cover the positions ``span`` of one axis, if the axis is divided into cells of ``stride``.

    Returns the numbers of these cells, from 0, and how many positions of the first one lie before ``span``.
    """
    first = span.start // stride
    return Span(first, -(-span.stop // stride)), span.start - first * stride
