"""Video encoder: frames to normalised latent, computed in pieces with exactly the result of the whole clip.

B batch, F frames, H W rows and columns of pixels; C channels, f h w grid of the latent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..config import VideoVAEConfig
from .convolution import ConvOptions, StreamConv3d, StridedConv3d, normed, patchify
from .half import AutoencoderHalf, check_5d, check_reflection
from .layers import Downsample, stages_of
from .residual import ResBlock, ResBlocks
from .streaming import MAX_PIECE_BYTES, Stage, Stream, collect, mark_last, run_stages


class VideoEncoder(AutoencoderHalf):
    """The encoding half of the video autoencoder: frames to normalised latents.

    State dict: ``encoder.*`` and ``per_channel_statistics.*``. Gradients are not disabled here; call the
    methods under ``torch.inference_mode()`` unless the encoder is being trained.
    """

    def __init__(
        self,
        config: VideoVAEConfig,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ) -> None:
        super().__init__(config, dtype=dtype, device=device, operations=operations)
        self.encoder = Encoder(config, dtype=dtype, device=device, operations=operations)

    def encode(self, frames: Tensor, *, max_piece_bytes: int = MAX_PIECE_BYTES) -> Tensor:
        """Frames (B, 3, F, H, W) in [-1, 1] -> normalised latent (B, C, f, h, w), the mean of the posterior.

        F must be 8k + 1, H and W multiples of 32. ``max_piece_bytes`` limits the size of activations and does
        not change the result. Raises ValueError for another size and names the nearest valid ones; nothing is
        cropped here.
        """
        self.check_frames(frames)
        latent_frames = (frames.shape[2] - 1) // self.time_scale + 1
        return collect(self.encode_stream(frames, max_piece_bytes=max_piece_bytes), latent_frames)

    def encode_stream(
        self, chunks: Tensor | Iterable[Tensor], *, max_piece_bytes: int = MAX_PIECE_BYTES
    ) -> Iterator[Tensor]:
        """Like :meth:`encode`, for a clip in chunks (B, 3, T, H, W) of any number of frames.

        Yields latent frames as they are computed, in pieces (B, C, t, h, w). The encoder is causal: a latent
        frame depends on no pixel frame after its own eight. ``max_piece_bytes`` limits the bytes of one
        activation inside of the encoder, and so how many frames are computed at a time; it does not change
        the result. Raises ValueError as :meth:`encode`, for a wrong length once the last chunk has come.
        """
        stream = Stream(causal=True)
        stages = self.encoder.stages()
        length = 0
        for chunk, last in mark_last([chunks] if isinstance(chunks, Tensor) else chunks):
            self._check_chunk(chunk)
            # A stream's length is only known at its end, so that it is checked there.
            length += chunk.shape[2]
            if last:
                self._check_length(length)
            # The mean is the latent; the channel of the log-variance behind it is dropped.
            for moments in run_stages(stages, chunk, stream, last, max_piece_bytes):
                yield self.per_channel_statistics.normalize(moments[:, : self.config.latent_channels])

    def check_frames(self, frames: Tensor) -> None:
        """Raise ValueError unless ``frames`` has a shape that :meth:`encode` accepts."""
        self._check_chunk(frames)
        self._check_length(frames.shape[2])

    def _check_chunk(self, frames: Tensor) -> None:
        check_5d(frames, self.config.channels, "frames")
        height, width = frames.shape[3:]
        if height % self.space_scale or width % self.space_scale:
            smaller = [max(1, n // self.space_scale) * self.space_scale for n in (height, width)]
            larger = [-(-n // self.space_scale) * self.space_scale for n in (height, width)]
            raise ValueError(
                f"height x width must be multiples of {self.space_scale}; got {height}x{width}, "
                f"try {smaller[0]}x{smaller[1]} or {larger[0]}x{larger[1]}"
            )
        check_reflection(self.config.encoder_padding, height // self.space_scale, width // self.space_scale)

    def _check_length(self, frames: int) -> None:
        extra = (frames - 1) % self.time_scale
        if extra:
            below = frames - extra
            options = " or ".join(str(n) for n in (below, below + self.time_scale) if n > 0)
            raise ValueError(f"frames must be {self.time_scale}k + 1; got {frames}, try {options}")


class Encoder(nn.Module):
    """The network of the encoder: frames to the mean of the raw latent, and a channel of log-variance.

    The log-variance is not used.
    """

    def __init__(
        self,
        config: VideoVAEConfig,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ) -> None:
        super().__init__()
        options: ConvOptions = {
            "padding": config.encoder_padding,
            "dtype": dtype,
            "device": device,
            "operations": operations,
        }
        self.patch_size = config.patch_size
        width = config.encoder_base_channels
        self.conv_in = StreamConv3d(config.channels * config.patch_size**2, width, **options)
        self.down_blocks = nn.ModuleList()
        # The encoder's header list is in the order of execution, unlike that of the decoder.
        for block in config.encoder_blocks:
            if block.kind == "res_x":
                self.down_blocks.append(ResBlocks(width, block.num_layers, **options))
            elif block.kind == "res_x_y":
                self.down_blocks.append(ResBlock(width, width * block.multiplier, **options))
                width *= block.multiplier
            elif block.strided:
                self.down_blocks.append(StridedConv3d(width, **options))
            else:
                self.down_blocks.append(Downsample(width, block.multiplier, block.strides, **options))
                width *= block.multiplier
        # One more channel: a log-variance for all others (latent_log_var is "uniform" in the headers).
        self.conv_out = StreamConv3d(width, config.latent_channels + 1, **options)

    def stages(self) -> list[Stage]:
        """The stages, for ``run_stages``, from frames (B, 3, F, H, W) to mean and log-variance.

        These are (B, C + 1, f, h, w); the last channel is the log-variance.
        """
        return [
            Stage(self._stem, self.conv_in.growth),
            *(stage for block in self.down_blocks for stage in stages_of(block)),
            Stage(self._head),
        ]

    def _stem(self, frames: Tensor, stream: Stream, last: bool) -> Tensor:
        h: Tensor = self.conv_in(patchify(frames, self.patch_size), stream, last)
        return h

    def _head(self, h: Tensor, stream: Stream, last: bool) -> Tensor:
        moments: Tensor = self.conv_out(normed(h), stream, last)
        return moments
