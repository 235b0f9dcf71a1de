"""How to decode a clip within given memory: pieces of time first, tiles only where its state does not fit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, prod

import torch

from ..config import VideoVAEConfig
from ..shapes import SPATIAL_SCALE, TEMPORAL_SCALE, ClipPlan
from ..video_vae.space_tiles import LATENTS_AT_ONCE, SpaceTiles, field_of_view
from ..video_vae.streaming import MAX_PIECE_BYTES
from .decoding import DecoderMemory, decoder_memory

SMALLEST_PIECE = 8 * 2**20
_PIECES = tuple(MAX_PIECE_BYTES >> halvings for halvings in range(5))
"""Down to the smallest; below it time grows and memory does not shrink."""

MOST_TILES = 8
"""Along an axis."""

FADED_HALOS = (8, 6, 4)
"""Borders in latent cells, where one that would be exact leaves no room; below these seams begin to show."""


@dataclass(frozen=True, kw_only=True)
class DecodeChoice:
    """``piece_bytes`` is for the decoder's ``max_piece_bytes``; without ``tiles`` the frame is whole.

    ``memory`` is what is on the device at once, ``host`` the bytes of system memory for the tiles that wait
    and the frames that they make up.
    """

    piece_bytes: int
    memory: DecoderMemory
    tiles: SpaceTiles | None = None
    exact: bool = True
    host: int = 0

    def line(self) -> str:
        """For people."""
        pieces = f"video is decoded in pieces of {self.piece_bytes / 2**20:.0f} MiB"
        if self.tiles is None:
            return pieces
        border = f"{self.tiles.halo * SPATIAL_SCALE} pixels around each"
        kind = "exact" if self.exact else "faded, not exact"
        return f"{pieces} and {self.tiles.columns} x {self.tiles.rows} tiles with {border}: {kind}"


def choose_decode(room: int, *, vae: VideoVAEConfig, clip: ClipPlan, dtype: torch.dtype) -> DecodeChoice:
    """The fastest way to decode ``clip`` within ``room`` bytes besides the weights, or the smallest one.

    What it costs grows downwards: smaller pieces; exact tiles; tiles with faded borders.
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
        made = DecodeChoice(piece_bytes=piece_bytes, memory=memory, tiles=tiles)
        if tiles is None:
            return made
        made = replace(made, exact=tiles.halo >= view)
        return replace(made, host=_host(made, clip, vae))

    view = field_of_view(vae)
    smallest = choice(None, SMALLEST_PIECE)
    if smallest.memory.peak <= room:
        return next(made for p in _PIECES if (made := choice(None, p)).memory.peak <= room)
    for halo in (view, *(halo for halo in FADED_HALOS if halo < view)):
        cuts = _cuts(cells, halo, view)
        if not cuts:
            continue
        least = choice(min(cuts, key=lambda tiles: prod(tiles.largest(cells))), SMALLEST_PIECE)
        if least.memory.peak < smallest.memory.peak:
            smallest = least
        if least.memory.peak > room:
            continue
        for tiles in cuts:
            if choice(tiles, SMALLEST_PIECE).memory.peak <= room:
                return next(made for p in _PIECES if (made := choice(tiles, p)).memory.peak <= room)
    return smallest


def _cuts(cells: tuple[int, int], halo: int, view: int) -> list[SpaceTiles]:
    """Ways to cut a frame into tiles smaller than it, least to decode in all first."""
    ways = (
        SpaceTiles(columns=columns, rows=rows, halo=halo)
        for columns in range(1, MOST_TILES + 1)
        for rows in range(1, MOST_TILES + 1)
    )
    smaller = (w for w in ways if w.fits(cells, view) and prod(w.largest(cells)) < prod(cells))
    return sorted(smaller, key=lambda tiles: (tiles.count * prod(tiles.largest(cells)), tiles.count))


def _host(choice: DecodeChoice, clip: ClipPlan, vae: VideoVAEConfig) -> int:
    """State of the tiles that wait, and the frames that lie there until all tiles have made their part.

    At the end of the clip that is all that the decoder lags behind. Exact tiles are bytes when they leave the
    device, as for a file; faded ones are added up in float32.
    """
    assert choice.tiles is not None
    lag = 0 if vae.causal_decoder else ceil(_lag(vae))
    latents = min(clip.latent_frames, LATENTS_AT_ONCE + lag)
    frame = vae.channels * clip.width * clip.height
    return (choice.tiles.count - 1) * choice.memory.state + TEMPORAL_SCALE * latents * frame * (
        1 if choice.exact else 4
    )


def _lag(vae: VideoVAEConfig) -> float:
    """Latent frames that frames come after their own: each convolution waits for one more."""
    lag, scale = 1.0, 1
    for block in vae.decoder_blocks:
        if block.kind == "res_x":
            lag += 2 * block.num_layers / scale
        else:
            lag += 1 / scale
            scale *= block.strides[0]
    return lag + 1 / scale
