"""How to decode a clip within a memory limit: smaller pieces of time first, spatial tiles only if needed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, prod

import torch

from ..config import VideoVAEConfig
from ..shapes import SPATIAL_SCALE, TEMPORAL_SCALE, ClipPlan
from ..video_vae.diffusion.kernels import Means
from ..video_vae.diffusion.reach import LAG as DIFFUSION_LAG
from ..video_vae.diffusion.reach import LATENTS_AT_ONCE as DIFFUSION_LATENTS_AT_ONCE
from ..video_vae.space_tiles import LATENTS_AT_ONCE, SpaceTiles, field_of_view
from ..video_vae.streaming import MAX_PIECE_BYTES
from .decoder_memory import DecoderMemory
from .decoding import decoder_memory
from .diffusion_decoding import FRAMES, diffusion_memory, tile_piece_bytes

SMALLEST_PIECE = 8 * 2**20
_PIECES = tuple(MAX_PIECE_BYTES >> halvings for halvings in range(5))
"""Limits in bytes for one piece of the clip to try, largest first.

Pieces below 8 MiB take longer and save no more memory.
"""

MOST_TILES = 8
"""Largest number of tiles along one axis."""

FADED_HALOS = (8, 6, 4)
"""Tile borders in latent cells to try if an exact one does not fit. Below 4 cells seams become visible."""


@dataclass(frozen=True, kw_only=True)
class DecodeChoice:
    """How to decode the video of a clip, and what memory that takes.

    ``piece_bytes`` is the decoder's ``max_piece_bytes``, by which it divides the clip in time. Without
    ``tiles`` (None) every frame is decoded whole. ``exact`` is False if tile borders are cross-faded.
    ``memory`` is the working memory on the device, ``host`` the bytes of system memory for the caches of
    inactive tiles and for the frames being assembled.
    """

    piece_bytes: int
    memory: DecoderMemory
    tiles: SpaceTiles | None = None
    exact: bool = True
    host: int = 0

    def line(self) -> str:
        """The choice as one line for a report."""
        pieces = f"video is decoded in pieces of {self.piece_bytes / 2**20:.0f} MiB"
        if self.tiles is None:
            return pieces
        border = f"{self.tiles.halo * SPATIAL_SCALE} pixels around each"
        kind = "exact" if self.exact else "faded, not exact"
        return f"{pieces} and {self.tiles.columns} x {self.tiles.rows} tiles with {border}: {kind}"


def choose_decode(
    room: int, *, vae: VideoVAEConfig, clip: ClipPlan, dtype: torch.dtype, means: Means = "tiles"
) -> DecodeChoice:
    """The fastest way to decode ``clip`` in ``dtype`` that needs at most ``room`` bytes for activations.

    It tries, in this order: whole frames in ever smaller pieces of time, exact tiles, and for the
    convolutional decoder of ``vae`` tiles with cross-faded borders. ``clip`` is the size and length,
    ``means`` what computes the attention of the diffusion decoder. If no way fits, the one with the lowest
    peak is returned.
    """
    if vae.diffusion is None:
        return _choose_convolutional(room, vae, clip, dtype)
    return _choose_diffusion(room, vae, clip, dtype, means)


def _choose_convolutional(room: int, vae: VideoVAEConfig, clip: ClipPlan, dtype: torch.dtype) -> DecodeChoice:
    """Choose how the convolutional decoder decodes ``clip`` in at most ``room`` bytes.

    It tries smaller pieces of time, then exact tiles, then tiles with cross-faded borders. Arguments are
    those of :func:`choose_decode`.
    """
    cells = clip.latent_height, clip.latent_width

    def choice(tiles: SpaceTiles | None, piece_bytes: int) -> DecodeChoice:
        memory = decoder_memory(
            vae,
            latent_frames=clip.latent_frames,
            cells=cells if tiles is None else tiles.largest(cells),
            itemsize=dtype.itemsize,
            piece_bytes=piece_bytes,
        )
        found = DecodeChoice(piece_bytes=piece_bytes, memory=memory, tiles=tiles)
        if tiles is None:
            return found
        found = replace(found, exact=tiles.halo >= view)
        return replace(found, host=_host(found, clip, vae))

    view = field_of_view(vae)
    smallest = choice(None, SMALLEST_PIECE)
    # Pieces cost little time and tiles decode their borders twice, so tiles come last.
    if smallest.memory.peak <= room:
        # The largest piece that fits is the fastest.
        return next(fit for p in _PIECES if (fit := choice(None, p)).memory.peak <= room)
    # A border as wide as the field of view makes tiles exact.
    for halo in (view, *(halo for halo in FADED_HALOS if halo < view)):
        cuts = _cuts(cells, halo, view)
        if not cuts:
            continue
        # The tiles of the smallest size tell whether any cut of this border fits.
        least = choice(min(cuts, key=lambda tiles: prod(tiles.largest(cells))), SMALLEST_PIECE)
        if least.memory.peak < smallest.memory.peak:
            smallest = least
        if least.memory.peak > room:
            continue
        # Cuts are sorted by work, so the first that fits is the fastest.
        for tiles in cuts:
            if choice(tiles, SMALLEST_PIECE).memory.peak <= room:
                return next(fit for p in _PIECES if (fit := choice(tiles, p)).memory.peak <= room)
    return smallest


def _choose_diffusion(
    room: int, vae: VideoVAEConfig, clip: ClipPlan, dtype: torch.dtype, means: Means
) -> DecodeChoice:
    """Choose how the diffusion decoder, whose tiles are always exact, decodes ``clip`` in ``room`` bytes.

    It tries whole frames and then tiles, least work first, and each of them with 16, 8, 4 and 2 pixel frames
    at a time. With fewer frames at a time attention keys of cached frames are computed more often. Tiles come
    last, as their borders are computed twice and their caches move to system memory and back. Arguments are
    those of :func:`choose_decode`.
    """
    cells, halo, smallest = (clip.latent_height, clip.latent_width), field_of_view(vae), None
    for tiles in (None, *_cuts(cells, halo, halo)):
        for at_once in FRAMES:
            memory = diffusion_memory(
                vae,
                latent_frames=clip.latent_frames,
                cells=cells,
                tiles=tiles,
                itemsize=dtype.itemsize,
                at_once=at_once,
                means=means,
            )
            choice = DecodeChoice(
                piece_bytes=tile_piece_bytes(vae, cells, tiles, dtype.itemsize, at_once),
                memory=memory,
                tiles=tiles,
                host=_diffusion_host(tiles, memory, clip, vae),
            )
            if memory.peak <= room:
                return choice
            if smallest is None or memory.peak < smallest.memory.peak:
                smallest = choice
    assert smallest is not None
    return smallest


def _diffusion_host(
    tiles: SpaceTiles | None, memory: DecoderMemory, clip: ClipPlan, vae: VideoVAEConfig
) -> int:
    """Bytes of system memory for decoding ``clip`` by the diffusion decoder in ``tiles``; 0 for None.

    These bytes hold the caches of all tiles but the one being decoded, each of ``memory.state`` bytes, and
    the frames that are being assembled from the tiles. ``vae`` has the number of colour channels.
    """
    if tiles is None:
        return 0
    # At the clip's end the frames by which the decoder lags come too.
    latents = min(clip.latent_frames, DIFFUSION_LATENTS_AT_ONCE + DIFFUSION_LAG)
    frame = vae.channels * clip.width * clip.height
    return (tiles.count - 1) * memory.state + TEMPORAL_SCALE * latents * frame


def _cuts(cells: tuple[int, int], halo: int, view: int) -> list[SpaceTiles]:
    """All ways to cut a frame of ``cells`` (latent rows, columns) into smaller tiles, least work first.

    There are up to ``MOST_TILES`` along each axis. Tiles have borders of ``halo`` latent cells; ``view`` is
    how many cells to each side a decoded pixel depends on.
    """
    ways = (
        SpaceTiles(columns=columns, rows=rows, halo=halo)
        for columns in range(1, MOST_TILES + 1)
        for rows in range(1, MOST_TILES + 1)
    )
    # A tile that is as large as the frame saves nothing.
    smaller = (w for w in ways if w.fits(cells, view) and prod(w.largest(cells)) < prod(cells))
    return sorted(smaller, key=lambda tiles: (tiles.count * prod(tiles.largest(cells)), tiles.count))


def _host(choice: DecodeChoice, clip: ClipPlan, vae: VideoVAEConfig) -> int:
    """Bytes of system memory for decoding ``clip`` by the tiles of ``choice``.

    The caches of tiles that are not being decoded wait there, and so do frames until all of their tiles are
    there. Most frames wait at the end of the clip, when a decoder that lags some latent frames behind its
    input returns these frames together. Exact tiles are uint8, cross-faded ones are summed in float32.
    """
    assert choice.tiles is not None
    # A decoder that is not causal releases the frames by which it lags at the end of the clip.
    lag = 0 if vae.causal_decoder else ceil(_lag(vae))
    latents = min(clip.latent_frames, LATENTS_AT_ONCE + lag)
    frame = vae.channels * clip.width * clip.height
    return (choice.tiles.count - 1) * choice.memory.state + TEMPORAL_SCALE * latents * frame * (
        1 if choice.exact else 4
    )


def _lag(vae: VideoVAEConfig) -> float:
    """Latent frames by which the decoder's output lags behind its input.

    Each convolution of the decoder needs one later frame of its input.
    """
    lag, scale = 1.0, 1
    for block in vae.decoder_blocks:
        if block.kind == "res_x":
            lag += 2 * block.num_layers / scale
        else:
            lag += 1 / scale
            scale *= block.strides[0]
    return lag + 1 / scale
