"""Resamplers of the video autoencoder, and the stages of its blocks; each computes a clip in pieces.

The result is that of the whole clip. B batch, C channels, T frames of a piece, H W rows and columns; tensors
are (B, C, T, H, W). Every block is called as ``block(x, stream, last)``: ``stream`` holds the frames that the
block caches between pieces, and ``last`` is True for the last piece of the clip. A piece is a few consecutive
frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .convolution import ConvOptions, StreamConv3d, missing
from .residual import ResBlock, ResBlocks
from .streaming import Raw, Stage, Stream

if TYPE_CHECKING:
    from typing_extensions import Unpack

Strides = tuple[int, int, int]


def _mean(x: Tensor, *, groups: int, dtype: torch.dtype) -> Tensor:
    """Average consecutive channels: (B, groups * G, T, H, W) -> (B, groups, T, H, W), summed in ``dtype``.

    On the CPU the bits of a frame do not depend on T.
    """
    size = x.shape[3:]
    x = rearrange(x, "b (c g) t h w -> b c g t (h w)", c=groups)
    x = F.pad(x, (0, rest)) if (rest := missing(x)) else x
    mean: Tensor = x.mean(2, dtype=dtype)[..., : size.numel()].unflatten(3, size)
    return mean


class Downsample(nn.Module):
    """Convolution, then cells of frames, rows and columns folded into channels, plus a skip connection.

    A cell has the size of ``strides``. The skip connection folds the input in the same way and averages
    consecutive groups of channels, as in DC-AE (Chen et al. 2024, arXiv 2410.10733).
    """

    def __init__(
        self, in_channels: int, multiplier: int, strides: Strides, **options: Unpack[ConvOptions]
    ) -> None:
        super().__init__()
        cell = strides[0] * strides[1] * strides[2]
        self.out_channels = in_channels * multiplier
        if self.out_channels % cell or in_channels * cell % self.out_channels:
            raise ValueError(
                f"encoder_blocks: {in_channels} channels, strides {strides} and multiplier {multiplier} do "
                "not divide evenly; use widths that are multiples of 8 and a multiplier of at most 8"
            )
        self.strides = strides
        self.conv = StreamConv3d(in_channels, self.out_channels // cell, **options)

    def forward(self, x: Tensor, stream: Stream, last: bool) -> Tensor:
        """x (B, C, T, H, W), the next piece -> (B, C * multiplier, T', H', W').

        T', H' and W' are T, H and W divided by the ``strides`` in time, height and width; ``multiplier`` is
        that of the constructor. With a stride of 2 in time the clip's first frame is paired with itself, and
        a last frame without a partner is cached for the next piece.
        """
        if self.strides[0] == 2:
            # The clip's first frame has a cell of its own, so it is paired with itself.
            unpaired = x[:, :, :1] if stream.is_first_call(self) else stream.take(self)
            x = x if unpaired is None else torch.cat([unpaired, x], dim=2)
            paired = x.shape[2] // 2 * 2
            stream.cache(self, x[:, :, paired:])
            x = x[:, :, :paired]
        skip = _mean(self._to_cells(x), groups=self.out_channels, dtype=x.dtype)
        # The convolution gets the pairs after the first frame was repeated, as the skip does: both then have
        # the same cells.
        h: Tensor = self.conv(x, stream, last)
        return self._to_cells(h).add_(skip)

    def _to_cells(self, x: Tensor) -> Tensor:
        p, q, r = self.strides
        return rearrange(x, "b c (t p) (h q) (w r) -> b (c p q r) t h w", p=p, q=q, r=r)


class Upsample(nn.Module):
    """Convolution, then channels unfolded into cells of frames, rows and columns of the size ``strides``.

    With ``residual`` the input, unfolded in the same way, is added.
    """

    def __init__(
        self,
        in_channels: int,
        multiplier: int,
        strides: Strides,
        *,
        residual: bool,
        **options: Unpack[ConvOptions],
    ) -> None:
        super().__init__()
        cell = strides[0] * strides[1] * strides[2]
        if in_channels % multiplier or (residual and (in_channels % cell or cell % multiplier)):
            raise ValueError(
                f"decoder_blocks: {in_channels} channels, strides {strides} and multiplier {multiplier} do "
                "not divide evenly; use widths that are multiples of 8 and a multiplier that divides the cell"
            )
        self.out_channels = in_channels // multiplier
        self.strides = strides
        self.residual = residual
        # Pieces are cut by the size of the result, which may exceed that of the input.
        self.growth = max(1.0, cell / multiplier)
        self.conv = StreamConv3d(in_channels, cell * self.out_channels, **options)

    def forward(self, x: Tensor, stream: Stream, last: bool) -> Tensor:
        """x (B, C, T, H, W), the next piece -> (B, C / multiplier, T', H', W').

        T', H' and W' are T, H and W times the ``strides`` in time, height and width; ``multiplier`` is that
        of the constructor. With a stride of 2 in time, the first frame of the clip becomes one frame, every
        later one two. If the stream is not causal, the result lags behind x by one frame of x.
        """
        if stream.windows is None:
            window = stream.window(self, x, last)
            h, raw = self.conv.convolve(window), Raw((window,), 0)
            del window
        else:
            h, raw = self.conv.joined(x, stream, last)
        frames = h.shape[2]
        h = self._from_cells(h)
        if self.residual:
            # From the window and not from ``x``: the convolution lags, and its outputs belong to earlier
            # frames.
            for at, part in raw.frames(stream.centre, stream.centre + frames):
                skip = self._from_cells(part)
                own = h.narrow(2, at * self.strides[0], skip.shape[2])
                # The skip has fewer channels and is repeated as a whole: c0 c1 c2 c0 c1 c2.
                own.view(h.shape[0], h.shape[1] // skip.shape[1], *skip.shape[1:]).add_(skip.unsqueeze(1))
        # The first latent frame stands for one pixel frame, so one of its two copies is dropped.
        if self.strides[0] == 2 and frames and stream.is_first_call(self):
            h = h[:, :, 1:]
        return h

    def _from_cells(self, x: Tensor) -> Tensor:
        p, q, r = self.strides
        if x.stride(1) == 1:
            # Windows that kernels make have their channels next to each other, and so has what follows.
            x = rearrange(x, "b (c p q r) t h w -> b (t p) (h q) (w r) c", p=p, q=q, r=r)
            return x.movedim(-1, 1)
        return rearrange(x, "b (c p q r) t h w -> b c (t p) (h q) (w r)", p=p, q=q, r=r)


def stages_of(block: nn.Module) -> list[Stage]:
    """The stages of one module of the network: one for each block of ``ResBlocks``, one for other modules."""
    if isinstance(block, ResBlocks):
        return [Stage(res_block) for res_block in block.res_blocks]
    return [Stage(block, block.growth if isinstance(block, Upsample | ResBlock) else 1.0)]
