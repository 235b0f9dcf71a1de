"""Large frames in spatial tiles: each forward pass computes one tile at a time, with all of the audio.

The velocities of tiles are blended by linear ramps in every step, so that the sampler works on one frame and
no tile is sampled by itself (MultiDiffusion, Bar-Tal et al. 2023, arXiv 2302.08113).

Letters: B batch, N tokens, C token channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..shapes import SPATIAL_SCALE
from .guided import GuideWeights
from .modality import Modality

Evaluate = Callable[[Modality, Modality | None], tuple[Tensor | None, Tensor | None]]


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """How many ``columns`` and ``rows`` of tiles a frame is divided into.

    ``overlap`` is how many latent cells, of 32 pixels, neighbouring tiles share. Memory and time of attention
    are those of a tile; the overlaps are computed more than once.
    """

    columns: int = 1
    rows: int = 1
    overlap: int = 4

    def __post_init__(self) -> None:
        if self.columns < 1 or self.rows < 1 or self.overlap < 1:
            raise ValueError(
                f"columns={self.columns}, rows={self.rows} and overlap={self.overlap} must be at least 1"
            )


def tile_spans(length: int, count: int, overlap: int) -> list[tuple[int, int]]:
    """Divide ``length`` latent cells into ``count`` spans of equal size.

    Spans are (start, stop) with stop exclusive; neighbours share at least ``overlap`` cells. Raises
    ValueError where a span would be no larger than its overlap, or no smaller than the whole.
    """
    # Equal tiles, rounded up, so that one set of kernels and one memory peak serve all of them.
    size = -(-(length + (count - 1) * overlap) // count)
    if count > 1 and (size <= overlap or size >= length):
        raise ValueError(
            f"{count} tiles that share {overlap} cells do not fit {length} cells: use fewer tiles, or a "
            "smaller overlap"
        )
    # Rounded starts spread the remainder evenly over the overlaps.
    starts = [round(i * (length - size) / (count - 1)) for i in range(count)] if count > 1 else [0]
    return [(start, start + size) for start in starts]


def tile_weights(length: int, spans: list[tuple[int, int]]) -> Tensor:
    """The weight of each span in each of ``length`` latent cells, (spans, length), for blending.

    Spans are (start, stop) with stop exclusive. Weights are linear ramps where spans overlap; those of one
    cell add up to 1.
    """
    weights = torch.zeros(len(spans), length)
    for number, (start, stop) in enumerate(spans):
        ramp = torch.ones(stop - start)
        if number:
            shared = spans[number - 1][1] - start
            # The ramp reaches neither 0 nor 1, so that each shared cell has a share of both tiles.
            ramp[:shared] *= torch.arange(1, shared + 1) / (shared + 1)
        if number + 1 < len(spans):
            shared = stop - spans[number + 1][0]
            ramp[-shared:] *= torch.arange(shared, 0, -1) / (shared + 1)
        weights[number, start:stop] = ramp
    # Where three tiles meet their ramps do not add up to 1 by themselves.
    return weights / weights.sum(dim=0)


def evaluate_tiles(
    evaluate: Evaluate, tiles: Tiles, video: Modality, audio: Modality | None
) -> tuple[Tensor | None, Tensor | None]:
    """Call ``evaluate(video, audio)`` for each tile of the video, with all of the audio.

    ``evaluate`` returns velocities. Returns the blended velocities (B, N, C) of all video tokens, and the
    mean over the tiles of the audio velocities; None for a stream without velocities. Tokens of guides belong
    to tiles by their positions, as those of the video do. Raises ValueError for tiles that do not fit into
    the frame.
    """
    whole = audio_mean = None
    for chosen, share, origin, part in _parts(video, tiles):
        own, audio_velocity = evaluate(_within(video, chosen, origin), audio)
        if own is not None:
            whole = own.new_zeros(*video.tokens.shape[:2], own.shape[2]) if whole is None else whole
            whole[:, chosen] += own * share.to(own)[:, None]
        if audio_velocity is not None:
            # The audio is whole in every tile, so that its velocities are averaged.
            weighted = audio_velocity * part
            audio_mean = weighted if audio_mean is None else audio_mean + weighted
    return whole, audio_mean


def _parts(video: Modality, tiles: Tiles) -> Iterator[tuple[Tensor, Tensor, tuple[int, int], float]]:
    """For each tile: the numbers of its tokens, their weights, its origin, its share of the audio mean.

    Numbers and weights (in the blend) are (n,), for n tokens. The origin is the tile's first row and column
    in pixels.
    """
    spans = video.positions[0, 1:].cpu()
    # By the centre of a token, as those of a small reference span several cells.
    cells = (spans.mean(dim=-1) / SPATIAL_SCALE).floor().long()
    # Tokens of the clip span one cell each; a dilated guide's tokens span several.
    rows, columns = ((spans[axis, :, 0].max() / SPATIAL_SCALE).long().item() + 1 for axis in (0, 1))
    by_row = tile_spans(int(rows), tiles.rows, tiles.overlap)
    by_column = tile_spans(int(columns), tiles.columns, tiles.overlap)
    down, across = tile_weights(int(rows), by_row), tile_weights(int(columns), by_column)
    for y, (top, bottom) in enumerate(by_row):
        for x, (left, right) in enumerate(by_column):
            inside = (cells[0] >= top) & (cells[0] < bottom) & (cells[1] >= left) & (cells[1] < right)
            chosen = inside.nonzero().flatten()
            share = down[y, cells[0, chosen]] * across[x, cells[1, chosen]]
            yield (
                chosen.to(video.tokens.device),
                share,
                (top * SPATIAL_SCALE, left * SPATIAL_SCALE),
                1 / (tiles.rows * tiles.columns),
            )


def _within(video: Modality, chosen: Tensor, origin: tuple[int, int]) -> Modality:
    """The tokens with numbers ``chosen`` as a clip of their own.

    Their positions are moved so that ``origin``, a row and a column in pixels, becomes the first row and
    column.
    """
    positions = video.positions[:, :, chosen.to(video.positions.device)].clone()
    # A tile begins at the origin, as a clip of its size would.
    positions[:, 1] -= origin[0]
    positions[:, 2] -= origin[1]
    mask = video.attention_mask
    if isinstance(mask, GuideWeights):
        mask = _guides_within(mask, chosen, video.tokens.shape[1])
    elif mask is not None:
        mask = mask[:, chosen][:, :, chosen]
    return replace(
        video,
        tokens=video.tokens[:, chosen],
        timesteps=video.timesteps if video.timesteps.shape[1] == 1 else video.timesteps[:, chosen],
        groups=None,
        positions=positions,
        attention_mask=mask,
        keyframes=None if video.keyframes is None else video.keyframes[:, chosen],
        timed=None if video.timed is None else video.timed.of(chosen),
    )


def _guides_within(weights: GuideWeights, chosen: Tensor, tokens: int) -> GuideWeights:
    """The weights of those guide tokens whose numbers are in ``chosen``, such as the tokens of one tile.

    Guides are images or clips that condition the video. Numbers count all ``tokens`` tokens of the video and
    its guides, of which those of the guides are the last.
    """
    chosen, start = chosen.cpu(), tokens - weights.count
    guides = []
    for guide in weights.guides:
        # A guide that has no token in this tile is left out below.
        own = chosen[(chosen >= start) & (chosen < start + len(guide))] - start
        guides.append(guide[own.to(guide.device)])
        start += len(guide)
    free = (flag for flag, guide in zip(weights.free, guides, strict=False) if len(guide))
    return replace(weights, guides=tuple(guide for guide in guides if len(guide)), free=tuple(free))
