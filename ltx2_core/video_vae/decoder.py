"""Video decoder: normalised latent in, frames out, piece by piece and exactly.

B batch, C channels, f h w grid of the latent; F frames, H W rows and columns of pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ..config import VideoVAEConfig
from .half import AutoencoderHalf, check_5d, check_reflection
from .layers import ResBlocks, StreamConv3d, Upsample, normed, stages_of, unpatchify
from .space_tiles import Convert, SpaceTiles, decode_in_tiles, field_of_view
from .streaming import MAX_PIECE_BYTES, Stage, Stream, collect, mark_last, run_stages


class VideoDecoder(AutoencoderHalf):
    """The decoding half; its state dict is ``decoder.*`` and ``per_channel_statistics.*``.

    Nothing here turns gradients off: run it under ``torch.inference_mode()`` unless it is being trained.
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
        self.decoder = Decoder(config, dtype=dtype, device=device, operations=operations)

    def decode(
        self, latent: Tensor, *, causal: bool | None = None, max_piece_bytes: int = MAX_PIECE_BYTES
    ) -> Tensor:
        """Normalised latent (B, C, f, h, w) -> frames (B, 3, 8(f - 1) + 1, 32h, 32w), unclamped [-1, 1].

        ``causal`` overrides the configuration; released decoders were trained to look ahead.
        ``max_piece_bytes`` bounds the activations, not the result.
        """
        check_5d(latent, self.config.latent_channels, "latent")
        length = self.time_scale * (latent.shape[2] - 1) + 1
        return collect(self.decode_stream(latent, causal=causal, max_piece_bytes=max_piece_bytes), length)

    def decode_stream(
        self,
        latents: Tensor | Iterable[Tensor],
        *,
        causal: bool | None = None,
        max_piece_bytes: int = MAX_PIECE_BYTES,
    ) -> Iterator[Tensor]:
        """Like ``decode``, but yields the frames in order, a few at a time; stop iterating to interrupt.

        ``latents`` is the whole latent, or latent frames in chunks of any lengths. Memory does not depend on
        the clip: each convolution keeps two frames, each skip two more. Unless causal, frames lag behind the
        latents (the first come with latent 23 of a 2.0 decoder, 15 of a 2.3 one) and the last chunk releases
        the rest.
        """
        stream = Stream(causal=self.config.causal_decoder if causal is None else causal)
        stages = self._stages()
        for chunk, last in mark_last([latents] if isinstance(latents, Tensor) else latents):
            self._check(chunk)
            yield from run_stages(stages, chunk, stream, last, max_piece_bytes)

    def decode_tiles(
        self,
        latents: Tensor | Iterable[Tensor],
        tiles: SpaceTiles,
        *,
        causal: bool | None = None,
        max_piece_bytes: int = MAX_PIECE_BYTES,
        convert: Convert | None = None,
    ) -> Iterator[Tensor]:
        """Like ``decode_stream``, tile by tile, with frames on the CPU; the state of one tile is with the
        weights and that of the others waits in system memory.

        Exact where ``tiles.halo`` reaches ``field_of_view``, else borders are cross-faded. ``convert`` is
        applied to frames (B, 3, T, H, W) before they leave the device. Raises ValueError for tiles that are
        smaller than their borders.
        """
        view = field_of_view(self.config)

        def checked() -> Iterator[Tensor]:
            for chunk in [latents] if isinstance(latents, Tensor) else latents:
                self._check(chunk)
                if not tiles.fits((chunk.shape[3], chunk.shape[4]), view):
                    raise ValueError(
                        f"a latent of {chunk.shape[3]}x{chunk.shape[4]} is too small for {tiles.rows} rows "
                        f"and {tiles.columns} columns with borders of {tiles.halo} cells: take fewer, or a "
                        "smaller halo"
                    )
                yield chunk

        return decode_in_tiles(
            self._stages(),
            checked(),
            tiles,
            exact=tiles.halo >= view,
            scale=self.space_scale,
            causal=self.config.causal_decoder if causal is None else causal,
            max_piece_bytes=max_piece_bytes,
            convert=convert,
        )

    def _stages(self) -> list[Stage]:
        return [Stage(self._raw), *self.decoder.stages()]

    def _check(self, latent: Tensor) -> None:
        check_5d(latent, self.config.latent_channels, "latent")
        check_reflection(self.config.decoder_padding, *latent.shape[3:])

    def _raw(self, latent: Tensor, stream: Stream, last: bool) -> Tensor:
        return self.per_channel_statistics.un_normalize(latent)


class Decoder(nn.Module):
    """Raw latent to patches of pixels."""

    def __init__(
        self,
        config: VideoVAEConfig,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ) -> None:
        super().__init__()
        factory: dict[str, Any] = {
            "padding": config.decoder_padding,
            "dtype": dtype,
            "device": device,
            "operations": operations,
        }
        self.patch_size = config.patch_size
        width = config.decoder_base_channels * prod(block.multiplier for block in config.decoder_blocks)
        self.conv_in = StreamConv3d(config.latent_channels, width, **factory)
        self.up_blocks = nn.ModuleList()
        for block in config.decoder_blocks:
            if block.kind == "res_x":
                self.up_blocks.append(ResBlocks(width, block.num_layers, **factory))
            else:
                self.up_blocks.append(
                    Upsample(width, block.multiplier, block.strides, residual=block.residual, **factory)
                )
                width //= block.multiplier
        self.conv_out = StreamConv3d(width, config.channels * config.patch_size**2, **factory)

    def stages(self) -> list[Stage]:
        """The chain from the raw latent (B, C, f, h, w) to frames (B, 3, F, H, W)."""
        return [
            Stage(self.conv_in, self.conv_in.growth),
            *(stage for block in self.up_blocks for stage in stages_of(block)),
            Stage(self._head),
        ]

    def _head(self, h: Tensor, stream: Stream, last: bool) -> Tensor:
        h = self.conv_out(normed(h), stream, last)
        return unpatchify(h, self.patch_size)
