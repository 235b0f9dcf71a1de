"""Building blocks of the video autoencoder; each computes a clip in pieces with the result of the whole.

B batch, C channels, T frames of a piece, H W rows and columns; tensors are (B, C, T, H, W). Every block is
called as ``block(x, stream, last)``: ``stream`` holds the frames that the block caches between pieces, and
``last`` is True for the last piece of the clip. A piece is a few consecutive frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..config import PaddingMode
from ..types import LayerOptions
from .streaming import TAPS, Stage, Stream

if TYPE_CHECKING:
    from typing_extensions import Unpack

Strides = tuple[int, int, int]
# Not the 1e-6 of ``resnet_eps``, which the official constructors pass along but this norm does not read.
PIXEL_NORM_EPS = 1e-8
# PyTorch sums over channels in another order in the last positions of a tensor that do not fill this many.
MEAN_POSITIONS = 32
# PyTorch convolves one clip by oneDNN above this product of channels, frames and rows, else by its own loop.
ONEDNN_SIZE = 20480


class ConvOptions(LayerOptions):
    """Keyword arguments of every convolution of a network: padding in space, dtype, device, layer classes."""

    padding: PaddingMode
    operations: Any


def normed(x: Tensor) -> Tensor:
    """RMS normalisation over the channels of each position (B, C, T, H, W), then SiLU."""
    # The mean is taken in float32 at least: squares of bfloat16 lose too many digits in a sum.
    precision = torch.promote_types(x.dtype, torch.float32)
    frames = x.flatten(3)
    rest = _missing(frames)
    # In place where positions were added: those are in a new tensor.
    squares = F.pad(frames, (0, rest)).square_() if rest else frames.square()
    power = squares.mean(1, keepdim=True, dtype=precision)
    power = power[..., : frames.shape[3]].unflatten(3, x.shape[3:])
    # In place on the product, which is a new tensor.
    return F.silu(x * (power + PIXEL_NORM_EPS).rsqrt().to(x.dtype), inplace=True)


def _missing(x: Tensor) -> int:
    """How many positions (..., N) to add so that the bits of a mean over channels do not depend on T."""
    return -x.shape[-1] % MEAN_POSITIONS if x.device.type == "cpu" else 0


def _mean(x: Tensor, *, groups: int, dtype: torch.dtype) -> Tensor:
    """Average consecutive channels: (B, groups * G, T, H, W) -> (B, groups, T, H, W), summed in ``dtype``.

    On the CPU the bits of a frame do not depend on T.
    """
    size = x.shape[3:]
    x = rearrange(x, "b (c g) t h w -> b c g t (h w)", c=groups)
    x = F.pad(x, (0, rest)) if (rest := _missing(x)) else x
    mean: Tensor = x.mean(2, dtype=dtype)[..., : size.numel()].unflatten(3, size)
    return mean


def patchify(frames: Tensor, size: int) -> Tensor:
    """Fold ``size`` x ``size`` pixels into channels: (B, C, T, H, W) -> (B, C size^2, T, H/size, W/size).

    In the channel index the column offset varies slower than the row offset, as in released checkpoints.
    """
    # ``pixel_unshuffle`` has rows before columns, which would transpose every cell of 4 x 4 pixels.
    return rearrange(frames, "b c t (h p) (w q) -> b (c q p) t h w", p=size, q=size)


def unpatchify(x: Tensor, size: int) -> Tensor:
    """The inverse of ``patchify``: (B, C size^2, T, H, W) -> (B, C, T, H size, W size)."""
    return rearrange(x, "b (c q p) t h w -> b c t (h p) (w q)", p=size, q=size)


class StreamConv3d(nn.Module):
    """3 x 3 x 3 convolution over a clip that arrives in pieces.

    Time is padded by repeating the clip's first and last frames, space with zeros or by reflection. A causal
    convolution repeats the first frame twice; otherwise the first and the last frame are repeated once.
    """

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
        # Reflection is explicit, because a host that replaces the convolution may ignore `padding_mode`.
        self.reflect = padding == "reflect"
        self.conv = operations.Conv3d(
            in_channels,
            out_channels,
            TAPS,
            # Time is padded by the stream, which alone has the first and the last frame of the clip.
            padding=0 if self.reflect else (0, 1, 1),
            dtype=dtype,
            device=device,
        )

    def forward(self, x: Tensor, stream: Stream, last: bool) -> Tensor:
        """x (B, C, T, H, W), the next piece of the clip -> (B, out_channels, T', H, W).

        T' = T if the stream is causal. Otherwise the first piece gives one frame less and the last piece one
        more.
        """
        return self.convolve(stream.window(self, x, last))

    def convolve(self, window: Tensor) -> Tensor:
        """Convolve a window (B, C, T, H, W), already padded in time -> (B, out_channels, T - 2, H, W).

        The result has no frames if T is below 3. The bits of a frame do not depend on T on the CPU.
        """
        if window.shape[2] < TAPS:
            # Until three frames have arrived there is nothing to output.
            return window.new_empty((window.shape[0], self.out_channels, 0, *window.shape[3:]))
        if self.reflect:
            window = F.pad(window, (1, 1, 1, 1, 0, 0), mode="reflect")
        if _is_beside_onednn(window):
            # A batch of two is always oneDNN's: pieces of all lengths then have the same bits. A copy of one
            # frees the other.
            twice: Tensor = self.conv(window.expand(2, -1, -1, -1, -1))
            return twice[:1].clone()
        out: Tensor = self.conv(window)
        return out


def _is_beside_onednn(window: Tensor) -> bool:
    """Whether PyTorch would convolve ``window`` (B, C, T, H, W) without oneDNN because of its size alone."""
    plain = window.device.type == "cpu" and window.dtype == torch.float32
    return plain and len(window) == 1 and window.shape[1:4].numel() <= ONEDNN_SIZE


class ResBlock(nn.Module):
    """Two normalised convolutions with a skip connection.

    If the stream is not causal, the output lags behind the input by the two frames of both convolutions. The
    skip connection lags as much; its frames are those that the first convolution caches.
    """

    def __init__(self, channels: int, **options: Unpack[ConvOptions]) -> None:
        super().__init__()
        self.conv1 = StreamConv3d(channels, channels, **options)
        self.conv2 = StreamConv3d(channels, channels, **options)

    def forward(self, x: Tensor, stream: Stream, last: bool) -> Tensor:
        """Compute the frames of the clip's next piece ``x`` (B, C, T, H, W) that are ready: (B, C, T', H, W).

        A frame needs the two frames after it (none in causal layers), so that T' is up to two smaller or,
        with ``last`` for the clip's last piece, larger than T. ``stream`` caches frames between the pieces.
        """
        window = stream.window(self, x, last)
        h: Tensor = self.conv1.convolve(normed(window))
        # The first convolution's outputs belong to the window's frames from the centre on. The second one
        # lags by one more frame until the clip ends.
        stop = stream.centre + h.shape[2] - (0 if stream.causal or last else 1)
        h = self.conv2(normed(h), stream, last)
        # In place, so that the largest activation exists only once.
        return h.add_(window[:, :, stop - h.shape[2] : stop])


class ResBlocks(nn.Module):
    """Container of ``num_layers`` residual blocks with the same number of channels.

    Each block is a stage of its own.
    """

    def __init__(self, channels: int, num_layers: int, **options: Unpack[ConvOptions]) -> None:
        super().__init__()
        self.res_blocks = nn.ModuleList([ResBlock(channels, **options) for _ in range(num_layers)])


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
        window = stream.window(self, x, last)
        h = self.conv.convolve(window)
        frames = h.shape[2]
        h = self._from_cells(h)
        if self.residual:
            # From the window and not from ``x``: the convolution lags, and its outputs belong to earlier
            # frames.
            skip = self._from_cells(window[:, :, stream.centre : stream.centre + frames])
            # The skip has fewer channels and is repeated as a whole: c0 c1 c2 c0 c1 c2.
            h.view(h.shape[0], h.shape[1] // skip.shape[1], *skip.shape[1:]).add_(skip.unsqueeze(1))
        # The first latent frame stands for one pixel frame, so one of its two copies is dropped.
        if self.strides[0] == 2 and frames and stream.is_first_call(self):
            h = h[:, :, 1:]
        return h

    def _from_cells(self, x: Tensor) -> Tensor:
        p, q, r = self.strides
        return rearrange(x, "b (c p q r) t h w -> b c (t p) (h q) (w r)", p=p, q=q, r=r)


def stages_of(block: nn.Module) -> list[Stage]:
    """The stages of one module of the network: one for each block of ``ResBlocks``, one for other modules."""
    if isinstance(block, ResBlocks):
        return [Stage(res_block) for res_block in block.res_blocks]
    return [Stage(block, block.growth if isinstance(block, Upsample) else 1.0)]
