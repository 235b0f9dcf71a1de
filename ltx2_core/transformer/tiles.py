"""Large frames in spatial tiles: each forward pass computes one tile at a time, with all of the audio.

The velocities of tiles are blended by linear ramps in every step, so that the sampler works on one frame and
no tile is sampled by itself (MultiDiffusion, Bar-Tal et al. 2023, arXiv 2302.08113).

Letters: B batch, N tokens, C token channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..shapes import SPATIAL_SCALE
from .guided import GuideWeights
from .modality import Modality
from .timesteps import Groups

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


_CUTS = 8
"""How many masks, groups and texts a tile holds; guidance passes alternate between a few."""


class TileMemory:
    """The tiles of the last clip, found by the positions of its tokens.

    To find them, and to bring the numbers of their tokens to a GPU, the CPU waits for it.
    """

    def __init__(self) -> None:
        self._known: tuple[Any, Tensor] | None = None
        self._found: list[_Tile] = []

    def clear(self) -> None:
        """Forget the tiles."""
        self._known, self._found = None, []

    def tiles(self, video: Modality, tiles: Tiles) -> list[_Tile]:
        """The ``tiles`` of the tokens of ``video``; raises ValueError for tiles that do not fit the frame."""
        positions, key = video.positions, (tiles, video.positions.shape, video.tokens.device)
        if self._known is not None:
            known, same = self._known
            # Positions are on the CPU; where they are not, only the same tensor is compared without a wait.
            if known == key and (same is positions or (positions.is_cpu and torch.equal(same, positions))):
                return self._found
        self._found = list(_tiles(video, tiles))
        self._known = key, positions
        return self._found


def evaluate_tiles(
    evaluate: Evaluate,
    tiles: Tiles,
    video: Modality,
    audio: Modality | None,
    memory: TileMemory | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Call ``evaluate(video, audio)`` for each tile of the video, with all of the audio.

    ``evaluate`` returns velocities. Returns the blended velocities (B, N, C) of all video tokens, and the
    mean over the tiles of the audio velocities; None for a stream without velocities. Tokens of guides belong
    to tiles by their positions, as those of the video do. ``memory`` holds the tiles from step to step; None
    finds them again. Raises ValueError for tiles that do not fit into the frame.
    """
    whole = audio_mean = None
    for tile in (memory or TileMemory()).tiles(video, tiles):
        own, audio_velocity = evaluate(tile.within(video), audio)
        if own is not None:
            whole = own.new_zeros(*video.tokens.shape[:2], own.shape[2]) if whole is None else whole
            whole[:, tile.chosen] += own * tile.share.to(own)[:, None]
        if audio_velocity is not None:
            # The audio is whole in every tile, so that its velocities are averaged.
            weighted = audio_velocity * tile.part
            audio_mean = weighted if audio_mean is None else audio_mean + weighted
    return whole, audio_mean


@dataclass(frozen=True, eq=False)
class _Tile:
    """One tile: the ``numbers`` of its n tokens on the CPU, ``chosen`` on the device, their ``share``.

    The share (n,) is the weight of each token in the blend, ``part`` that of the tile's audio in the mean.
    ``positions`` are those of the tokens as a clip of their own: the tile begins at the origin.
    """

    numbers: Tensor
    chosen: Tensor
    share: Tensor
    positions: Tensor
    part: float
    _cut: dict[tuple[str, int], tuple[object, Any]] = field(default_factory=dict)
    """What was cut for a tile, found by the identity of the whole, which is the same object in every step."""

    def within(self, video: Modality) -> Modality:
        """The tokens of this tile as a clip of their own."""
        count = video.tokens.shape[1]
        mask = self._of("mask", video.attention_mask, lambda whole: _mask_within(whole, self, count))
        groups = video.groups
        if groups is not None:
            of = groups.of
            own: Groups = self._of("groups", groups.index, lambda _: of(self.numbers))
            groups = replace(own, timesteps=groups.timesteps)
        timesteps = video.timesteps
        if timesteps.shape[1] > 1:
            timesteps = timesteps[:, self.chosen.to(timesteps.device)]
        return replace(
            video,
            tokens=video.tokens[:, self.chosen],
            timesteps=timesteps,
            groups=groups,
            positions=self.positions,
            attention_mask=mask,
            keyframes=None if video.keyframes is None else video.keyframes[:, self.chosen],
            timed=self._of("timed", video.timed, lambda whole: whole.of(self.numbers)),
        )

    def _of(self, name: str, whole: Any, cut: Callable[[Any], Any]) -> Any:
        """``cut(whole)``, or what it was if ``whole`` is an object that was cut before; None for None."""
        if whole is None:
            return None
        key = name, id(whole)
        if key not in self._cut:
            # A caller that makes new objects in every step must not fill the memory with them.
            while len(self._cut) >= _CUTS:
                del self._cut[next(iter(self._cut))]
            # The whole is held, so that no other object gets its identity.
            self._cut[key] = whole, cut(whole)
        return self._cut[key][1]


def _tiles(video: Modality, tiles: Tiles) -> Iterator[_Tile]:
    spans = video.positions[0, 1:].cpu()
    # By the centre of a token, as those of a small reference span several cells.
    cells = (spans.mean(dim=-1) / SPATIAL_SCALE).floor().long()
    # Tokens of the clip span one cell each; a dilated guide's tokens span several.
    rows, columns = ((spans[axis, :, 0].max() / SPATIAL_SCALE).long().item() + 1 for axis in (0, 1))
    by_row = tile_spans(int(rows), tiles.rows, tiles.overlap)
    by_column = tile_spans(int(columns), tiles.columns, tiles.overlap)
    down, across = tile_weights(int(rows), by_row), tile_weights(int(columns), by_column)
    device = video.tokens.device
    for y, (top, bottom) in enumerate(by_row):
        for x, (left, right) in enumerate(by_column):
            inside = (cells[0] >= top) & (cells[0] < bottom) & (cells[1] >= left) & (cells[1] < right)
            numbers = inside.nonzero().flatten()
            positions = video.positions[:, :, numbers.to(video.positions.device)].clone()
            # A tile begins at the origin, as a clip of its size would.
            positions[:, 1] -= top * SPATIAL_SCALE
            positions[:, 2] -= left * SPATIAL_SCALE
            share = down[y, cells[0, numbers]] * across[x, cells[1, numbers]]
            part = 1 / (tiles.rows * tiles.columns)
            yield _Tile(numbers, numbers.to(device), share.to(device), positions, part)


def _mask_within(mask: GuideWeights | Tensor, tile: _Tile, tokens: int) -> GuideWeights | Tensor:
    """The attention mask of a tile, of that of all ``tokens`` tokens."""
    if isinstance(mask, GuideWeights):
        return _guides_within(mask, tile.numbers, tokens)
    return mask[:, tile.chosen][:, :, tile.chosen]


def _guides_within(weights: GuideWeights, chosen: Tensor, tokens: int) -> GuideWeights:
    """The weights of those guide tokens whose numbers are in ``chosen``, such as the tokens of one tile.

    Guides are images or clips that condition the video. ``chosen`` is on the CPU; numbers count all
    ``tokens`` tokens of the video and its guides, of which those of the guides are the last.
    """
    start = tokens - weights.count
    guides = []
    for guide in weights.guides:
        # A guide that has no token in this tile is left out below.
        own = chosen[(chosen >= start) & (chosen < start + len(guide))] - start
        guides.append(guide[own.to(guide.device)])
        start += len(guide)
    free = (flag for flag, guide in zip(weights.free, guides, strict=False) if len(guide))
    return replace(weights, guides=tuple(guide for guide in guides if len(guide)), free=tuple(free))
