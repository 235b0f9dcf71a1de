"""Convolutions and norm of the video autoencoder, for a clip that arrives in pieces.

B batch, C channels, T frames of a piece, H W rows and columns; tensors are (B, C, T, H, W). A piece is a few
consecutive frames; ``stream`` holds the frames that a convolution caches between pieces, and ``last`` is True
for the last piece of the clip.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..config import PaddingMode
from ..types import LayerOptions
from .streaming import TAPS, Conditions, Raw, Stream

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


def normed(x: Tensor, conditions: Conditions | None = None, number: int = 0) -> Tensor:
    """RMS normalisation over the channels of each position (B, C, T, H, W), then SiLU.

    Between the two, ``conditions`` modulate the result by their shift and scale of that ``number``.
    """
    # The mean is taken in float32 at least: squares of bfloat16 lose too many digits in a sum.
    precision = torch.promote_types(x.dtype, torch.float32)
    frames = x.flatten(3)
    rest = missing(frames)
    # In place where positions were added: those are in a new tensor.
    squares = F.pad(frames, (0, rest)).square_() if rest else frames.square()
    power = squares.mean(1, keepdim=True, dtype=precision)
    power = power[..., : frames.shape[3]].unflatten(3, x.shape[3:])
    x = x * (power + PIXEL_NORM_EPS).rsqrt().to(x.dtype)
    if conditions is not None and conditions.scales:
        x = x * (1 + conditions.scales[number]) + conditions.shifts[number]
    # In place on the product, which is a new tensor.
    return F.silu(x, inplace=True)


def missing(x: Tensor) -> int:
    """How many positions (..., N) to add so that the bits of a mean over channels do not depend on T."""
    return -x.shape[-1] % MEAN_POSITIONS if x.device.type == "cpu" else 0


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
        stride: int = 1,
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
            stride=stride,
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
        if stream.windows is not None:
            return self.joined(x, stream, last)[0]
        return self.convolve(stream.window(self, x, last))

    def joined(
        self, x: Tensor, stream: Stream, last: bool, *, eps: float | None = None
    ) -> tuple[Tensor, Raw]:
        """Like calling it, with the kernels of ``stream.windows``; also returns what the window was made of.

        If ``eps`` is not None, the input is normalised with it and goes through SiLU (see :func:`normed`).
        """
        window, raw = stream.made_window(self, x, last, reflect=self.reflect, eps=eps)
        if window.shape[2] < TAPS:
            return x.new_empty((x.shape[0], self.out_channels, 0, *x.shape[3:])), raw
        return convolved(self.conv, window), raw

    def convolve(self, window: Tensor) -> Tensor:
        """Convolve a window (B, C, T, H, W), already padded in time -> (B, out_channels, T - 2, H, W).

        The result has no frames if T is below 3. The bits of a frame do not depend on T on the CPU.
        """
        if window.shape[2] < TAPS:
            # Until three frames have arrived there is nothing to output.
            return window.new_empty((window.shape[0], self.out_channels, 0, *window.shape[3:]))
        if self.reflect:
            window = F.pad(window, (1, 1, 1, 1, 0, 0), mode="reflect")
        return convolved(self.conv, window)


def convolved(conv: nn.Module, window: Tensor) -> Tensor:
    """``conv(window)`` for a window (B, C, T, H, W); the bits of a frame do not depend on T on the CPU."""
    if _is_beside_onednn(window):
        # A batch of two is always oneDNN's: pieces of all lengths then have the same bits. A copy of one
        # frees the other.
        twice: Tensor = conv(window.expand(2, -1, -1, -1, -1))
        return twice[:1].clone()
    out: Tensor = conv(window)
    return out


def _is_beside_onednn(window: Tensor) -> bool:
    """Whether PyTorch would convolve ``window`` (B, C, T, H, W) without oneDNN because of its size alone."""
    plain = window.device.type == "cpu" and window.dtype == torch.float32
    return plain and len(window) == 1 and window.shape[1:4].numel() <= ONEDNN_SIZE


class StridedConv3d(StreamConv3d):
    """A causal convolution that leaves out every second frame, row and column (LTX-Video 0.9.0 and 0.9.1).

    The number of channels does not change. The clip's first frame alone makes the first frame of the result.
    """

    def __init__(self, channels: int, **options: Unpack[ConvOptions]) -> None:
        super().__init__(channels, channels, stride=2, **options)

    def forward(self, x: Tensor, stream: Stream, last: bool) -> Tensor:  # noqa: ARG002 see the module
        """x (B, C, T, H, W), the next piece of the clip -> (B, C, T', H / 2, W / 2), T' about half of T."""
        before = stream.take(self)
        if before is None:
            before = x[:, :, :1].repeat(1, 1, TAPS - 1, 1, 1)
        window = torch.cat((before, x), dim=2)
        # Each result takes two new frames, so that one or two are left for the next piece.
        used = (window.shape[2] - 1) // 2 * 2
        stream.cache(self, window[:, :, used:])
        out = self.convolve(window[:, :, : used + 1])
        # Without a frame there is no convolution that would halve the size.
        return out if used else out[..., ::2, ::2]
