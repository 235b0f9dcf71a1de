"""Video decoder: normalised latent to frames, computed in pieces with exactly the result of the whole clip.

B batch, C channels, f h w grid of the latent; F frames, H W rows and columns of pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ..config import VideoVAEConfig
from .conditioned import ConditionedPass, NoisyDecoding
from .convolution import PIXEL_NORM_EPS, ConvOptions, StreamConv3d, normed, unpatchify
from .half import DecodingHalf, check_5d, check_reflection
from .layers import Upsample, stages_of
from .residual import ResBlock, ResBlocks
from .space_tiles import Convert, SpaceTiles, StageTiles, decode_in_tiles, field_of_view
from .streaming import MAX_PIECE_BYTES, Stage, Stream, collect, mark_last, run_stages
from .time_embedder import TimeEmbedder
from .windows import Windows


class VideoDecoder(DecodingHalf):
    """The decoding half of the video autoencoder: normalised latents to frames.

    State dict: ``decoder.*`` and ``per_channel_statistics.*``. Gradients are not disabled here; call the
    methods under ``torch.inference_mode()`` unless the decoder is being trained. ``noisy`` says which noise a
    decoder of LTX-Video adds and removes; other decoders use none.
    """

    decoder: Decoder

    def __init__(
        self,
        config: VideoVAEConfig,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ) -> None:
        super().__init__(config, dtype=dtype, device=device, operations=operations)
        self.noisy = NoisyDecoding(config.timestep, config.noise_scale)
        self.windows = Windows()

    def decode(
        self, latent: Tensor, *, causal: bool | None = None, max_piece_bytes: int = MAX_PIECE_BYTES
    ) -> Tensor:
        """Normalised latent (B, C, f, h, w) -> frames (B, 3, 8(f - 1) + 1, 32h, 32w) in [-1, 1], not clamped.

        ``causal`` overrides the configuration if it is not None; released decoders are not causal: a frame
        depends on later latents too. ``max_piece_bytes`` limits the size of activations and does not change
        the result. Raises ValueError for a latent of another shape.
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
        """Like :meth:`decode`, but yields the frames (B, 3, T, H, W) in order, a few at a time.

        ``latents`` is the whole latent, or an iterable of consecutive chunks of any number of latent frames.
        To interrupt, stop iterating. Memory does not grow with the length of the clip: each convolution
        caches two frames, each skip connection two more. A decoder that is not causal lags behind its input:
        it yields the first frames after 23 latent frames (2.0) or 15 (2.3), and the last ones with the last
        chunk.
        """
        # Released decoders were trained with a look-ahead. Running them causally works, but changes every
        # frame.
        causal = self.config.causal_decoder if causal is None else causal
        conditioned = ConditionedPass(self.decoder, self.noisy, self.windows)
        stages, stream = self._stages(), None
        for chunk, last in mark_last([latents] if isinstance(latents, Tensor) else latents):
            self._check(chunk)
            noised = conditioned.noised(chunk)
            stream = stream or conditioned.stream(causal=causal)
            yield from run_stages(stages, noised, stream, last, max_piece_bytes)

    def decode_tiles(
        self,
        latents: Tensor | Iterable[Tensor],
        tiles: SpaceTiles,
        *,
        causal: bool | None = None,
        max_piece_bytes: int = MAX_PIECE_BYTES,
        convert: Convert | None = None,
    ) -> Iterator[Tensor]:
        """Like :meth:`decode_stream`, but in spatial tiles, one after another; yields frames on the CPU.

        Only the tile that is being decoded has its caches on the device, the others' are in system memory.
        The result is exact if ``tiles.halo``, the border of a tile in latent cells, is at least as wide as
        what a decoded pixel depends on (see ``field_of_view``); otherwise overlapping borders are
        cross-faded. ``convert``, if it is not None, is applied to frames (B, 3, T, H, W) before they are
        copied to the CPU. Raises ValueError if the latent is too small for these tiles.
        """
        # Smaller borders than the field of view would leave visible seams, so that they are cross-faded.
        view = field_of_view(self.config)
        conditioned = ConditionedPass(self.decoder, self.noisy, self.windows)

        def checked() -> Iterator[Tensor]:
            for chunk in [latents] if isinstance(latents, Tensor) else latents:
                self._check(chunk)
                if not tiles.fits((chunk.shape[3], chunk.shape[4]), view):
                    raise ValueError(
                        f"a latent of {chunk.shape[3]}x{chunk.shape[4]} is too small for {tiles.rows} rows "
                        f"and {tiles.columns} columns with borders of {tiles.halo} cells: use fewer tiles, "
                        "or a smaller halo"
                    )
                yield conditioned.noised(chunk)

        return decode_in_tiles(
            StageTiles(
                stages=self._stages(),
                conditioned=conditioned,
                scale=self.space_scale,
                causal=self.config.causal_decoder if causal is None else causal,
                max_piece_bytes=max_piece_bytes,
            ),
            checked(),
            tiles,
            exact=tiles.halo >= view,
            scale=self.space_scale,
            convert=convert,
        )

    def _network(self, config: VideoVAEConfig, **options: Any) -> Decoder:
        return Decoder(config, **options)

    def _stages(self) -> list[Stage]:
        # A stage too, so that a long latent is un-normalised piece by piece.
        return [Stage(self._raw), *self.decoder.stages()]

    def _check(self, latent: Tensor) -> None:
        check_5d(latent, self.config.latent_channels, "latent")
        check_reflection(self.config.decoder_padding, *latent.shape[3:])

    def _raw(self, latent: Tensor, stream: Stream, last: bool) -> Tensor:
        return self.per_channel_statistics.un_normalize(latent)


class Decoder(nn.Module):
    """The decoder's network: raw latent (B, C, f, h, w) to frames (B, 3, F, H, W), as a list of stages."""

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
            "padding": config.decoder_padding,
            "dtype": dtype,
            "device": device,
            "operations": operations,
        }
        self.patch_size = config.patch_size
        conditioned = config.timestep is not None
        # The base is the width at the output; each resampler divides the width by its multiplier.
        width = config.decoder_base_channels * prod(block.multiplier for block in config.decoder_blocks)
        self.conv_in = StreamConv3d(config.latent_channels, width, **options)
        self.up_blocks = nn.ModuleList()
        # The configuration reverses the list of the header, which names the blocks from the output to the
        # latent.
        for block in config.decoder_blocks:
            if block.kind == "res_x":
                self.up_blocks.append(
                    ResBlocks(
                        width,
                        block.num_layers,
                        conditioned=conditioned,
                        inject_noise=block.inject_noise,
                        **options,
                    )
                )
            elif block.kind == "res_x_y":
                self.up_blocks.append(ResBlock(width, width // block.multiplier, **options))
                width //= block.multiplier
            else:
                self.up_blocks.append(
                    Upsample(width, block.multiplier, block.strides, residual=block.residual, **options)
                )
                width //= block.multiplier
        self.conv_out = StreamConv3d(width, config.channels * config.patch_size**2, **options)
        if conditioned:
            self.timestep_scale_multiplier = nn.Parameter(torch.empty((), dtype=dtype, device=device))
            self.last_time_embedder = TimeEmbedder(2 * width, **options)
            self.last_scale_shift_table = nn.Parameter(torch.empty(2, width, dtype=dtype, device=device))

    def stages(self) -> list[Stage]:
        """The stages from the raw latent (B, C, f, h, w) to frames (B, 3, F, H, W), for ``run_stages``."""
        return [
            Stage(self.conv_in, self.conv_in.growth),
            *(stage for block in self.up_blocks for stage in stages_of(block)),
            Stage(self._head),
        ]

    def _head(self, h: Tensor, stream: Stream, last: bool) -> Tensor:
        # No clamp and no tanh, as in the official decoder: callers clamp once they convert to pixels.
        conditions = stream.conditions.get(self)
        if stream.windows is not None and (conditions is None or not conditions.scales):
            h = self.conv_out.joined(h, stream, last, eps=PIXEL_NORM_EPS)[0]
        else:
            h = self.conv_out(normed(h, conditions), stream, last)
        return unpatchify(h, self.patch_size)
