"""Diffusion video decoder of LTX-2.5: normalised latent to frames, in pieces, exactly.

B batch, C channels, f h w grid of the latent; F frames, H W rows and columns of pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...config import VideoVAEConfig
from ..half import DecodingHalf, check_5d
from ..space_tiles import Convert, SpaceTiles, TileWindow, decode_in_tiles
from ..streaming import Stage, Stream, collect, mark_last, run_stages
from .network import Decoder
from .noise import ClipShape, FrameNoise, NoiseSource
from .padding import Padding
from .reach import LATENTS_AT_ONCE, ghosts, piece_bytes, tile_halo
from .streams import Clip, Cut, DecoderStream


class DiffusionVideoDecoder(DecodingHalf):
    """The decoding half of the video autoencoder of LTX-2.5, for latents of LTX-2.3 and LTX-2.5.

    State dict: ``decoder.*`` and ``per_channel_statistics.*``. Gradients are not disabled here; call it under
    ``torch.inference_mode()`` unless it is being trained. ``noise`` is where decoding starts from; the
    attribute is the default of all methods.
    """

    decoder: Decoder
    noise: NoiseSource = FrameNoise()
    pad_small = True
    """Whether latents below the smallest size are padded by their edges, as the official decoder does."""

    def decode(
        self, latent: Tensor, *, max_piece_bytes: int | None = None, noise: NoiseSource | None = None
    ) -> Tensor:
        """Normalised latent (B, C, f, h, w) -> frames (B, 3, 8(f - 1) + 1, 32h, 32w) in [-1, 1], not clamped.

        ``max_piece_bytes`` limits the bytes of one activation and does not change the result; None allows
        activations of 16 pixel frames. ``noise`` gives the noise that decoding starts from; None takes the
        attribute ``noise``. Raises ValueError for a latent of another shape.
        """
        check_5d(latent, self.config.latent_channels, "latent")
        length = self.time_scale * (latent.shape[2] - 1) + 1
        return collect(self.decode_stream(latent, max_piece_bytes=max_piece_bytes, noise=noise), length)

    def decode_stream(
        self,
        latents: Tensor | Iterable[Tensor],
        *,
        max_piece_bytes: int | None = None,
        noise: NoiseSource | None = None,
    ) -> Iterator[Tensor]:
        """Like ``decode``, but yields the frames in order, a few at a time; stop iterating to interrupt.

        ``latents`` is the whole latent, or an iterable of consecutive chunks of any number of latent frames.
        Memory does not grow with the length of the clip: each attention block that denoises pixels caches ten
        pixel frames of its input, and each block before, which makes features of the latent, two frames
        (steps of the time axis) of its input. The first frames come after 20 latent frames, the last ones
        with the last chunk.
        """
        run: _Run | None = None
        for chunk, last in mark_last(self._checked(latents)):
            if run is None:
                run = _Run(self, chunk, latents, noise or self.noise, max_piece_bytes)
                stream = DecoderStream(run.clip)
                front = [*run.first, *run.context]
            for frames in run.decode(front, run.arrived(chunk, last), stream, last):
                yield run.padding.cropped(frames)

    def decode_tiles(
        self,
        latents: Tensor | Iterable[Tensor],
        tiles: SpaceTiles,
        *,
        max_piece_bytes: int | None = None,
        convert: Convert | None = None,
        noise: NoiseSource | None = None,
    ) -> Iterator[Tensor]:
        """Like ``decode_stream``, with most of the decoder in spatial tiles; yields frames on the CPU.

        In tiles are the last stage that makes features of the latent, and the diffusion stage, which denoises
        frames. The stages before these two run on whole frames, and are a tenth of the work. Only the tile
        that is being decoded has its caches on the device, those of the others are in system memory. The
        result is that of ``decode_stream``. ``convert`` is applied to frames (B, 3, F, H, W) before they are
        copied to the CPU; None leaves them as they are. Raises ValueError if ``tiles.halo``, the border of a
        tile in latent cells, is smaller than the decoder's field of view, since the result would not be
        exact.
        """
        least = tile_halo(self.config)
        if tiles.halo < least:
            raise ValueError(
                f"tiles of the diffusion decoder need borders of {least} latent cells; got {tiles.halo}"
            )
        chunks = mark_last(self._checked(latents))
        first = next(chunks)
        cells = first[0].shape[3], first[0].shape[4]
        if not tiles.fits(cells, least):
            raise ValueError(
                f"a latent of {cells[0]}x{cells[1]} is too small for {tiles.rows} rows and {tiles.columns} "
                "columns of tiles: use fewer tiles"
            )
        if max_piece_bytes is None:
            area = tiles.largest(cells)
            max_piece_bytes = len(first[0]) * piece_bytes(self.config, area, first[0].element_size())
        run = _Run(self, first[0], latents, noise or self.noise, max_piece_bytes)

        def features() -> Iterator[Tensor]:
            stream = DecoderStream(run.clip)
            yield from run.before_tiles(first[0], first[1], stream)
            for chunk, last in chunks:
                yield from run.before_tiles(chunk, last, stream)

        at_once = LATENTS_AT_ONCE * run.frames_per_latent
        for frames in decode_in_tiles(
            _Tiles(run),
            # The caches of a tile move to the device and back for every chunk, whatever its length.
            _gathered(features(), at_once),
            tiles,
            exact=True,
            scale=self.space_scale,
            convert=convert,
            units=run.units,
            at_once=at_once,
        ):
            yield run.padding.cropped(frames)

    def _network(self, config: VideoVAEConfig, **options: Any) -> Decoder:
        return Decoder(config, **options)

    def _checked(self, latents: Tensor | Iterable[Tensor]) -> Iterator[Tensor]:
        for chunk in _apart(latents) if isinstance(latents, Tensor) else latents:
            check_5d(chunk, self.config.latent_channels, "latent")
            yield chunk


def _apart(latent: Tensor) -> Iterator[Tensor]:
    """A whole latent (B, C, f, h, w) in two chunks, views: all but the last latent frame, and that one.

    Only the last chunk is copied, since copies of its last frame are appended to it. Memory would grow with
    the length of the clip if that chunk were the whole latent.
    """
    if latent.ndim == 5 and latent.shape[2] > 1:
        yield latent[:, :, :-1]
        latent = latent[:, :, -1:]
    yield latent


def _gathered(pieces: Iterable[Tensor], frames: int) -> Iterator[Tensor]:
    """Join consecutive ``pieces`` (B, C, T, H, W), and cut them, to chunks of ``frames`` frames each.

    The last chunk may be shorter.
    """
    held: list[Tensor] = []
    count = 0
    for piece in pieces:
        held.append(piece)
        count += piece.shape[2]
        del piece
        while count >= frames:
            whole = [torch.cat(held, dim=2) if len(held) > 1 else held[0]]
            # Copies, since a view would hold all of it; and no name here may hold what is yielded.
            held, count = [whole[0][:, :, frames:].clone()] if count > frames else [], count - frames
            chunk = [whole.pop()[:, :, :frames].clone()]
            yield chunk.pop()
    if held:
        yield torch.cat(held, dim=2)


class _Run:
    """The decoding of one clip: its lists of stages, what all its tiles share, and how it is padded.

    ``owner`` is the decoder, ``like`` the first chunk (B, C, f, h, w) of the latent; the other arguments are
    those of ``DiffusionVideoDecoder.decode_stream``.
    """

    def __init__(
        self,
        owner: DiffusionVideoDecoder,
        like: Tensor,
        latents: Tensor | Iterable[Tensor],
        noise: NoiseSource,
        max_piece_bytes: int | None,
    ) -> None:
        self.owner, self.network = owner, owner.decoder
        self.config = self.network.config
        self.padding = Padding(owner.config, (like.shape[3], like.shape[4]), pad=owner.pad_small)
        height, width = self.padding.cells
        length = self.padding.latent_frames(latents.shape[2]) if isinstance(latents, Tensor) else None
        frames = None if length is None else self.padding.frames_of(length)
        scale = owner.space_scale
        self.clip = Clip(size=ClipShape(like.shape[0], scale * height, scale * width, frames), noise=noise)
        if max_piece_bytes is None:
            max_piece_bytes = like.shape[0] * piece_bytes(owner.config, (height, width), like.element_size())
        self.limit = max_piece_bytes
        self.first = [Stage(self._raw), *self.network.first_stages()]
        self.context = self.network.context_stages()
        self.diffusion = self.network.diffusion_stages(like)
        growing = self.config.stages[:-2]
        self.units, self.frames_per_latent = 1, 1
        for stage in growing:
            self.units *= stage.strides[1]
            self.frames_per_latent *= stage.strides[0]

    def _raw(self, latent: Tensor, stream: Stream, last: bool) -> Tensor:
        return self.owner.per_channel_statistics.un_normalize(latent)

    def arrived(self, chunk: Tensor, last: bool) -> Tensor:
        """Pad the next chunk (B, C, f, h, w) of the latent to the smallest size that the decoder takes.

        Behind the ``last`` chunk copies of its last latent frame are appended, because the decoder's first
        stages look ahead in time. The length of the clip is known, and stored, only then.
        """
        chunk = self.padding.padded(chunk, last)
        if last:
            frames = self.padding.frames_of(self.padding.seen)
            stride = self.config.stages[-1].strides[0]
            self.clip.length = (frames - 1) // stride + 1
            end = chunk[:, :, -1:].expand(-1, -1, ghosts(self.config), -1, -1)
            chunk = torch.cat((chunk, end), dim=2)
        return chunk

    def before_tiles(self, chunk: Tensor, last: bool, stream: Stream) -> Iterator[Tensor]:
        """Run the stages that compute whole frames on the next chunk (B, C, f, h, w) of the latent.

        Yields their result (B, C, T, H, W) in pieces along the time axis: the input of the last two stages,
        which run in tiles. ``last`` says that the chunk ends the latent; ``stream`` holds what the stages
        cache between chunks.
        """
        growth = 1.0
        for stage in (*self.context, self.diffusion[0]):
            growth *= stage.growth
        yield from run_stages(self.first, self.arrived(chunk, last), stream, last, int(self.limit / growth))

    def decode(self, front: list[Stage], x: Tensor, stream: DecoderStream, last: bool) -> Iterator[Tensor]:
        """Yield the frames (B, 3, F, H, W) that ``x`` (B, C, T, H, W) is decoded to, a few at a time.

        ``front`` are the stages that run before the diffusion stage; ``x`` is the input of the first of them,
        the next piece of the clip. ``stream`` holds the caches of all stages. ``last`` says that ``x`` is the
        last piece: only then come the last frames, since the stages lag some frames behind their input.
        """
        limit = int(self.limit / self.network.context_growth())
        for features in run_stages(front, x, stream, last, limit):
            passed = stream.count(self, features.shape[2])
            end = self.clip.length
            ends = end is not None and passed.stop >= end
            # What lies behind the clip's end only served the stages before.
            if end is not None:
                features = features[:, :, : max(0, end - passed.start)]
            yield from run_stages(self.diffusion, features, stream, ends, self.limit)
            if ends:
                return


@dataclass(frozen=True)
class _Tiles:
    """Decodes tiles of the frame from the features that go into the decoder's last two stages.

    ``run`` is the decode that the tiles belong to.
    """

    run: _Run

    def stream(self, window: TileWindow) -> DecoderStream:
        """Empty caches for the tile at ``window``.

        The result also says where in the frame the tile lies, and on which sides the frame continues.
        """
        run, (height, width) = self.run, self.run.padding.cells
        rows, columns = window.rows, window.columns
        cut = Cut(rows.start > 0, rows.stop < height, columns.start > 0, columns.stop < width)
        last = run.config.stages[-1]
        # What the blocks of the last stage before take off cut sides, then counted in patches.
        corner = [
            (first * run.config.strides[axis])
            + is_cut * last.depth * (last.kernel[axis] // 2) * last.strides[axis]
            for first, is_cut, axis in ((rows.start, cut.top, 1), (columns.start, cut.left, 2))
        ]
        return DecoderStream(run.clip, cut=cut, origin=(corner[0], corner[1]))

    def origin(self, window: TileWindow) -> tuple[int, int]:
        """The (row, column) in pixels of the whole frame at which the decoded frames of a tile begin."""
        run = self.run
        size = run.owner.space_scale // run.config.strides[1]
        stream = self.stream(window)
        reach = [run.config.steps * run.config.depth * (k // 2) for k in run.config.kernel[1:]]
        top, left = stream.origin
        return size * (top + stream.cut.top * reach[0]), size * (left + stream.cut.left * reach[1])

    def decode(self, x: Tensor, stream: Stream, last: bool) -> Iterator[Tensor]:
        assert isinstance(stream, DecoderStream)
        end = self.run.clip.length
        if end is not None and stream.seen.get(self.run, 0) >= end:
            return
        yield from self.run.decode(self.run.context, x, stream, last)
