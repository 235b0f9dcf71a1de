"""Predicted peak memory of the diffusion video decoder, from its configuration and the size of the frame.

It counts what ``video_vae.diffusion`` holds while one block of the diffusion stage computes, and must change
together with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ..config import DiffusionDecoderConfig, VideoVAEConfig
from ..video_vae.diffusion.attention import BATCH_BYTES, MASK_BYTES, boxes, tile_size
from ..video_vae.diffusion.blocks import MLP_TOKENS, STRIP_BYTES
from ..video_vae.diffusion.kernels import Means, few_keys
from ..video_vae.diffusion.reach import FRAMES_AT_ONCE, LATENTS_AT_ONCE, frames_of, piece_bytes
from ..video_vae.diffusion.rope import CHUNK_BYTES
from ..video_vae.space_tiles import SpaceTiles
from .decoder_memory import DecoderMemory
from .diffusion_pieces import Piece, block_pieces

FRAMES = (16, 8, 4, 2)
"""Numbers of pixel frames that the decoder may compute at a time, the fastest first.

With fewer at a time, attention keys of the cached frames are computed more often.
"""


@dataclass(frozen=True)
class _Area:
    """The height and width of a tile in patches (positions of the decoder's diffusion stage).

    ``cut`` is how many sides of the tile are cuts through the frame: (of top and bottom, of left and right),
    0 to 2 each. At each of these a block takes off half of its attention window, so that the tile shrinks
    from block to block.
    """

    height: float
    width: float
    cut: tuple[int, int]

    def after(self, blocks: int, kernel: tuple[int, int, int]) -> float:
        """How many patches are left after ``blocks`` blocks with attention windows of size ``kernel``."""
        height = self.height - self.cut[0] * blocks * (kernel[1] // 2)
        return height * self.width_after(blocks, kernel)

    def width_after(self, blocks: int, kernel: tuple[int, int, int]) -> float:
        """How many columns of patches are left after ``blocks`` blocks with windows of size ``kernel``."""
        return self.width - self.cut[1] * blocks * (kernel[2] // 2)


def tile_piece_bytes(
    vae: VideoVAEConfig, cells: tuple[int, int], tiles: SpaceTiles | None, itemsize: int, at_once: int
) -> int:
    """The ``max_piece_bytes``, a limit of activations, by which ``at_once`` frames are computed at a time.

    These are pixel frames. ``cells`` are the latent (rows, columns) of the whole frame, which ``tiles`` cut;
    None decodes it whole. ``itemsize`` is the bytes of one number.
    """
    return piece_bytes(vae, cells if tiles is None else tiles.largest(cells), itemsize, at_once)


def frames_at_once(vae: VideoVAEConfig, cells: tuple[int, int], itemsize: int, limit: int | None) -> int:
    """How many pixel frames the decoder computes at a time if its ``max_piece_bytes`` is ``limit``.

    That is its limit of activations in bytes; None is the default. ``cells`` are the latent (rows, columns)
    of the frame or tile, ``itemsize`` the bytes of one number. At least 1 is returned.
    """
    if limit is None:
        return FRAMES_AT_ONCE
    return max(1, limit // piece_bytes(vae, cells, itemsize, 1))


def diffusion_memory(
    vae: VideoVAEConfig,
    *,
    latent_frames: int,
    cells: tuple[int, int],
    tiles: SpaceTiles | None = None,
    itemsize: int,
    at_once: int,
    means: Means = "tiles",
) -> DecoderMemory:
    """Bytes of working memory to decode a latent of ``latent_frames`` frames of ``cells`` (rows, columns).

    ``at_once`` is how many pixel frames are computed at a time. With ``tiles`` the result is for the largest
    tile and for the stages before the tiles; None decodes whole frames. ``itemsize`` is the bytes of one
    number, ``means`` what computes attention. For clips of 14 latent frames and more the estimate is within
    10 % of what ``memory.trace.Trace`` counts in a real decode. Weights, the latent and the frames already
    yielded are not included.
    """
    config = vae.diffusion
    assert config is not None
    size = cells if tiles is None else tiles.largest(cells)
    cut = (0, 0) if tiles is None else (min(2, tiles.rows - 1), min(2, tiles.columns - 1))
    before = _early_state(config, cells, size, itemsize)
    if tiles is not None:
        before += _chunks(config, latent_frames, cells, itemsize)
    _, scale, across = config.strides
    last = config.stages[-1]
    taken = [
        sides * last.depth * (k // 2) * stride
        for sides, k, stride in zip(cut, last.kernel[1:], last.strides[1:], strict=True)
    ]
    area = _Area(size[0] * scale - taken[0], size[1] * across - taken[1], cut)
    value = config.channels * itemsize
    frames = frames_of(config, latent_frames)
    caches = [
        min(config.kernel[0] - 1, frames) * area.after(n, config.kernel) * value for n in range(config.depth)
    ]
    # Features are held from the first block's context on to the last one's, and by whole pieces.
    held = min(frames, (config.depth - 1) * (config.kernel[0] // 2) + 1.5 * at_once)
    features = held / last.strides[0] * area.after(0, config.kernel) * last.channels * itemsize
    features /= last.strides[1] * last.strides[2]
    state = before + sum(caches) * config.steps + features
    peak = 0.0
    for block, pieces in enumerate(block_pieces(config, latent_frames, at_once, tiles=tiles is not None)):
        begun = False
        for piece in pieces:
            if not piece.made:
                continue
            working = value * piece.taken * area.after(block, config.kernel)
            working += value * piece.made * area.after(block + 1, config.kernel)
            working += _strip(config, area, block, piece, itemsize, means)
            # Later blocks have nothing before a block's first result, and earlier ones free their caches when
            # the clip ends.
            empty = 0.0 if begun else sum(caches[block + 1 :])
            empty += sum(caches[:block]) if piece.last else 0.0
            peak = max(peak, state - empty + working)
            begun = True
    return DecoderMemory(peak=int(peak), state=int(state))


def _chunks(
    config: DiffusionDecoderConfig, latent_frames: int, cells: tuple[int, int], itemsize: int
) -> float:
    """Bytes of the features of the whole frame that tiles are cut from: one chunk, and one read ahead.

    The arguments are those of :func:`diffusion_memory`.
    """
    stages = config.stages[:-2]
    frames, height, width = (prod(stage.strides[axis] for stage in stages) for axis in range(3))
    rows = frames * min(2 * LATENTS_AT_ONCE, latent_frames)
    # The last of these stages ends before its upsampler.
    return rows * cells[0] * height * cells[1] * width * config.stages[-2].channels * itemsize


def _early_state(
    config: DiffusionDecoderConfig, cells: tuple[int, int], tile: tuple[int, int], itemsize: int
) -> float:
    """Bytes that the stages before the diffusion stage cache.

    All of them compute whole frames of ``cells`` (rows, columns of the latent), except the last one, which
    computes only ``tile`` (rows, columns). ``itemsize`` is the bytes of one number.
    """
    total, scale = 0.0, 1
    for number, stage in enumerate(config.stages):
        height, width = tile if number == len(config.stages) - 1 else cells
        row = height * width * scale * stage.channels * itemsize
        total += stage.depth * (stage.kernel[0] - 1) * row
        scale *= prod(stage.strides[1:])
    return total


def _strip(
    config: DiffusionDecoderConfig, area: _Area, block: int, piece: Piece, itemsize: int, means: Means
) -> float:
    """Bytes that block number ``block`` of the diffusion stage needs for one strip of rows.

    ``area`` has the height and width of the tile or frame in patches. ``piece`` says how many pixel
    frames the block gets, and how many it then computes; ``itemsize`` is the bytes of one number, ``means``
    what computes attention.
    """
    at_once, asking = piece.taken, piece.made
    value = config.channels * itemsize
    tile = tile_size(config.kernel)[1]
    width, height = area.width_after(block, config.kernel), area.height
    row = (at_once + config.kernel[0] - 1) * width * value
    strip = min(height, max(tile, STRIP_BYTES // row // tile * tile))
    keys = 2 * min(height, strip + config.kernel[1] - 1) * row
    queries = asking * strip * area.width_after(block + 1, config.kernel) * value
    # Input, normalised input, queries before and after their norm, rotated queries, and the angles. Halves of
    # pairs are rotated in float32, some frames at a time.
    rotation = queries // config.channels * config.head_dim * 4 / itemsize
    rotating = 0.0 if itemsize == 4 else 4 * min(queries, max(CHUNK_BYTES, queries / asking))
    copies = queries + _copies(config, (asking, strip, width - config.kernel[2] + 1), value)
    masks = min(MASK_BYTES, keys)
    if means == "triton":
        copies, masks = queries, 0
    # The kernel of comfy-kitchen takes queries, and returns results, at all positions of the keys.
    elif means == "na3d" and few_keys(queries, keys / 2, boxes(config.kernel)):
        copies, masks = keys, 0
    attention = 2 * queries + rotation + copies
    hidden = 12 * min(MLP_TOKENS, asking * strip * width) * value
    return masks + keys + max(5 * queries + rotation + rotating, attention, queries + hidden)


def _copies(config: DiffusionDecoderConfig, queries: tuple[float, float, float], value: int) -> float:
    """Bytes of the copies of keys and values, queries and results, for one call of attention.

    A call computes as many tiles of queries as fit into ``BATCH_BYTES`` and have the same mask. ``queries``
    are the numbers of such positions in time, rows and columns: those whose attention window lies inside the
    frame. ``value`` is the bytes of a position.
    """
    sizes = tile_size(config.kernel)
    box = prod(size + window - 1 for size, window in zip(sizes, config.kernel, strict=True)) * value
    times, rows, columns = (max(1, int(n // size)) for n, size in zip(queries, sizes, strict=True))
    # As in ``windows.batches``, which groups along columns first.
    most = max(1, int(BATCH_BYTES // box))
    across = min(columns, most)
    down = min(rows, max(1, most // across))
    along = min(times, max(1, most // (across * down)))
    return across * down * along * 2 * (box + prod(sizes) * value)
