"""Residual blocks of the video autoencoder, also with a timestep and with noise (LTX-Video).

B batch, C channels, T frames of a piece, H W rows and columns; tensors are (B, C, T, H, W). Blocks are called
as those of ``layers``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from einops import rearrange
from torch import Tensor, nn

from ..types import LayerOptions
from .convolution import PIXEL_NORM_EPS, ConvOptions, StreamConv3d, convolved, normed
from .streaming import Conditions, Stream
from .time_embedder import TimeEmbedder

if TYPE_CHECKING:
    from typing_extensions import Unpack


class ResBlock(nn.Module):
    """Two normalised convolutions with a skip connection.

    If the stream is not causal, the output lags behind the input by the two frames of both convolutions. The
    skip connection lags as much; its frames are those that the first convolution caches. With
    ``out_channels`` the number of channels changes, and the skip connection goes through a norm and a
    convolution of one position. ``conditioned`` and ``inject_noise`` add the parameters of a decoder that is
    conditioned on a timestep, and of one that adds noise after each convolution.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        conditioned: bool = False,
        inject_noise: bool = False,
        **options: Unpack[ConvOptions],
    ) -> None:
        super().__init__()
        layer: LayerOptions = {"dtype": options.get("dtype"), "device": options.get("device")}
        width = channels if out_channels is None else out_channels
        self.growth = max(1.0, width / channels)
        self.conv1 = StreamConv3d(channels, width, **options)
        self.conv2 = StreamConv3d(width, width, **options)
        if width != channels:
            self.norm3 = ChannelNorm(channels, options["operations"], **layer)
            self.conv_shortcut = options["operations"].Conv3d(channels, width, 1, **layer)
        if conditioned:
            self.scale_shift_table = nn.Parameter(torch.empty(4, channels, **layer))
        if inject_noise:
            self.per_channel_scale1 = nn.Parameter(torch.empty(channels, 1, 1, **layer))
            self.per_channel_scale2 = nn.Parameter(torch.empty(channels, 1, 1, **layer))

    def forward(self, x: Tensor, stream: Stream, last: bool) -> Tensor:
        """Compute the frames of the clip's next piece ``x`` (B, C, T, H, W) that are ready: (B, C, T', H, W).

        A frame needs the two frames after it (none in causal layers), so that T' is up to two smaller or,
        with ``last`` for the clip's last piece, larger than T. ``stream`` caches frames between the pieces.
        """
        conditions = stream.conditions.get(self)
        if stream.windows is not None and (conditions is None or not conditions.scales):
            return self._joined(x, stream, last, conditions)
        window = stream.window(self, x, last)
        h: Tensor = self._noised(self.conv1.convolve(normed(window, conditions, 0)), conditions, 0)
        # The first convolution's outputs belong to the window's frames from the centre on. The second one
        # lags by one more frame until the clip ends.
        stop = stream.centre + h.shape[2] - (0 if stream.causal or last else 1)
        h = self._noised(self.conv2(normed(h, conditions, 1), stream, last), conditions, 1)
        # In place, so that the largest activation exists only once.
        return h.add_(self._skip(window[:, :, stop - h.shape[2] : stop]))

    def _joined(self, x: Tensor, stream: Stream, last: bool, conditions: Conditions | None) -> Tensor:
        """:meth:`forward` with the kernels of ``stream.windows``."""
        h, raw = self.conv1.joined(x, stream, last, eps=PIXEL_NORM_EPS)
        h = self._noised(h, conditions, 0)
        # As in ``forward``.
        stop = stream.centre + h.shape[2] - (0 if stream.causal or last else 1)
        h = self._noised(self.conv2.joined(h, stream, last, eps=PIXEL_NORM_EPS)[0], conditions, 1)
        for at, part in raw.frames(stop - h.shape[2], stop):
            h[:, :, at : at + part.shape[2]].add_(self._skip(part))
        return h

    def _noised(self, h: Tensor, conditions: Conditions | None, number: int) -> Tensor:
        if conditions is None or not conditions.planes:
            return h
        scale: Tensor = (self.per_channel_scale1, self.per_channel_scale2)[number].unsqueeze(1)
        return h.addcmul_(conditions.planes[number].to(h), scale.to(h))

    def _skip(self, x: Tensor) -> Tensor:
        width = self.conv1.out_channels
        if width == x.shape[1]:
            return x
        # A convolution takes at least one frame.
        if not x.shape[2]:
            return x.new_empty(x.shape[0], width, *x.shape[2:])
        return convolved(self.conv_shortcut, self.norm3(x))


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each position, with weight and bias, named as in checkpoints."""

    def __init__(self, channels: int, operations: Any, **layer: Unpack[LayerOptions]) -> None:
        super().__init__()
        self.norm = operations.LayerNorm(channels, eps=1e-6, **layer)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, T, H, W) -> the same shape."""
        channels_last: Tensor = self.norm(rearrange(x, "b c t h w -> b t h w c"))
        return rearrange(channels_last, "b t h w c -> b c t h w")


class ResBlocks(nn.Module):
    """Container of ``num_layers`` residual blocks with the same number of channels.

    Each block is a stage of its own. With ``conditioned`` they share a network from the timestep to shifts
    and scales, to which each block adds its own; with ``inject_noise`` they add noise.
    """

    def __init__(
        self,
        channels: int,
        num_layers: int,
        *,
        conditioned: bool = False,
        inject_noise: bool = False,
        **options: Unpack[ConvOptions],
    ) -> None:
        super().__init__()
        self.inject_noise = inject_noise
        self.time_embedder = TimeEmbedder(4 * channels, **options) if conditioned else None
        self.res_blocks = nn.ModuleList(
            [
                ResBlock(channels, conditioned=conditioned, inject_noise=inject_noise, **options)
                for _ in range(num_layers)
            ]
        )

    @property
    def blocks(self) -> list[ResBlock]:
        """The residual blocks in the order in which they run."""
        return cast("list[ResBlock]", [*self.res_blocks])
