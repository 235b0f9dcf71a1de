"""Building blocks of the video autoencoder, all of them exact on a stream of pieces.

B batch, C channels, T frames of a piece, H W rows and columns; tensors are (B, C, T, H, W). Every block is
called as ``block(x, stream, last)``: ``stream`` holds what the block remembers, ``last`` says that the clip
ends with ``x``.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from ..config import PaddingMode
from .streaming import TAPS, Stage, Stream

Strides = tuple[int, int, int]
PIXEL_NORM_EPS = 1e-8


def normed(x: Tensor) -> Tensor:
    """Divide every position by the root mean square of its channels, then SiLU."""
    precision = torch.promote_types(x.dtype, torch.float32)
    power = x.square().mean(1, keepdim=True, dtype=precision)
    return F.silu(x * (power + PIXEL_NORM_EPS).rsqrt().to(x.dtype), inplace=True)


def patchify(frames: Tensor, size: int) -> Tensor:
    """Fold cells of pixels into channels; the column offset varies slower than the row offset."""
    return rearrange(frames, "b c t (h p) (w q) -> b (c q p) t h w", p=size, q=size)


def unpatchify(x: Tensor, size: int) -> Tensor:
    """Undo ``patchify``."""
    return rearrange(x, "b (c q p) t h w -> b c t (h p) (w q)", p=size, q=size)


class StreamConv3d(nn.Module):
    """3 x 3 x 3 convolution; repeats the clip's first and last frames in time, pads space as configured."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        padding: PaddingMode,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.growth = max(1.0, out_channels / in_channels)
        # Reflection is done by hand: a host that swaps the convolution kernel may overlook `padding_mode`.
        self.reflect = padding == "reflect"
        self.conv = operations.Conv3d(
            in_channels,
            out_channels,
            TAPS,
            padding=0 if self.reflect else (0, 1, 1),
            dtype=dtype,
            device=device,
        )

    def forward(self, x: Tensor, stream: Stream, last: bool) -> Tensor:
        """x (B, C, T, H, W) -> (B, out, T', H, W).

        T' = T when causal; otherwise one less at the start of the clip and one more at its end.
        """
        return self.convolve(stream.window(self, x, last))

    def convolve(self, window: Tensor) -> Tensor:
        """window (B, C, T, H, W) -> (B, out, T - 2, H, W), or no frames if that is less than one."""
        if window.shape[2] < TAPS:
            return window.new_empty((window.shape[0], self.out_channels, 0, *window.shape[3:]))
        if self.reflect:
            window = F.pad(window, (1, 1, 1, 1, 0, 0), mode="reflect")
        out: Tensor = self.conv(window)
        return out


class ResBlock(nn.Module):
    """Two normalised convolutions beside a skip.

    The frames kept for the first convolution are those that the skip, too, still has to add.
    """

    def __init__(self, channels: int, **factory: Any) -> None:
        super().__init__()
        self.conv1 = StreamConv3d(channels, channels, **factory)
        self.conv2 = StreamConv3d(channels, channels, **factory)

    def forward(self, x: Tensor, stream: Stream, last: bool) -> Tensor:
        """x (B, C, T, H, W) -> (B, C, T', H, W)."""
        window = stream.window(self, x, last)
        h: Tensor = self.conv1.convolve(normed(window))
        # The first convolution's frames are the window's from the centre on; until the clip ends, the second
        # one holds the last of them back.
        stop = stream.centre + h.shape[2] - (0 if stream.causal or last else 1)
        h = self.conv2(normed(h), stream, last)
        return h.add_(window[:, :, stop - h.shape[2] : stop])


class ResBlocks(nn.Module):
    """A run of residual blocks of one width; a container, since each of them is a stage."""

    def __init__(self, channels: int, num_layers: int, **factory: Any) -> None:
        super().__init__()
        self.res_blocks = nn.ModuleList([ResBlock(channels, **factory) for _ in range(num_layers)])


class Downsample(nn.Module):
    """Cells to channels after a convolution, plus the input's own cells averaged in consecutive groups."""

    def __init__(self, in_channels: int, multiplier: int, strides: Strides, **factory: Any) -> None:
        super().__init__()
        cell = strides[0] * strides[1] * strides[2]
        self.out_channels = in_channels * multiplier
        if self.out_channels % cell or in_channels * cell % self.out_channels:
            raise ValueError(
                f"encoder_blocks: {in_channels} channels, strides {strides} and multiplier {multiplier} do "
                "not divide evenly; use widths that are multiples of 8 and a multiplier of at most 8"
            )
        self.strides = strides
        self.conv = StreamConv3d(in_channels, self.out_channels // cell, **factory)

    def forward(self, x: Tensor, stream: Stream, last: bool) -> Tensor:
        """x (B, C, T, H, W) -> (B, C x multiplier, T', H', W'); a frame without its pair waits for it."""
        if self.strides[0] == 2:
            # The clip's first frame has a cell to itself: it is its own partner.
            waiting = x[:, :, :1] if stream.once(self) else stream.recall(self)
            x = x if waiting is None else torch.cat([waiting, x], dim=2)
            paired = x.shape[2] // 2 * 2
            stream.keep(self, x[:, :, paired:])
            x = x[:, :, :paired]
        skip = reduce(self._to_cells(x), "b (c g) t h w -> b c t h w", "mean", c=self.out_channels)
        h: Tensor = self.conv(x, stream, last)
        return self._to_cells(h).add_(skip)

    def _to_cells(self, x: Tensor) -> Tensor:
        p, q, r = self.strides
        return rearrange(x, "b c (t p) (h q) (w r) -> b (c p q r) t h w", p=p, q=q, r=r)


class Upsample(nn.Module):
    """Channels to cells after a convolution, plus the input's own channels if ``residual``."""

    def __init__(
        self, in_channels: int, multiplier: int, strides: Strides, *, residual: bool, **factory: Any
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
        self.growth = max(1.0, cell / multiplier)
        self.conv = StreamConv3d(in_channels, cell * self.out_channels, **factory)

    def forward(self, x: Tensor, stream: Stream, last: bool) -> Tensor:
        """x (B, C, T, H, W) -> (B, C / multiplier, T', H', W')."""
        window = stream.window(self, x, last)
        h = self.conv.convolve(window)
        frames = h.shape[2]
        h = self._from_cells(h)
        if self.residual:
            skip = self._from_cells(window[:, :, stream.centre : stream.centre + frames])
            # The skip is narrower and repeats as a whole block: c0 c1 c2 c0 c1 c2.
            h.view(h.shape[0], h.shape[1] // skip.shape[1], *skip.shape[1:]).add_(skip.unsqueeze(1))
        if self.strides[0] == 2 and frames and stream.once(self):
            h = h[:, :, 1:]
        return h

    def _from_cells(self, x: Tensor) -> Tensor:
        p, q, r = self.strides
        return rearrange(x, "b (c p q r) t h w -> b c (t p) (h q) (w r)", p=p, q=q, r=r)


def stages_of(block: nn.Module) -> list[Stage]:
    """The links of the chain that one entry of a block list stands for."""
    if isinstance(block, ResBlocks):
        return [Stage(res_block) for res_block in block.res_blocks]
    return [Stage(block, block.growth if isinstance(block, Upsample) else 1.0)]
