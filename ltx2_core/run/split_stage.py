"""Divides the second stage of an HDR clip into tiles along time, height and width, and joins the results.

Each tile is sampled as a clip of its own, with noise of its own seed; where tiles overlap their latents are
blended. The official HDR pipeline refines every clip so, in 2 x 2 x 2 tiles. Letters: C latent channels, F
latent frames, H W latent rows and columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from ..conditioning.guide_frames import GuideFrames
from ..conditioning.items import Conditioning
from ..shapes import SPATIAL_SCALE, frames_of
from .stage_spans import OVERLAPS, Span, spans
from .stages import Stage


@dataclass(frozen=True, kw_only=True)
class Cells:
    """The latent frames, rows and columns of a tile: each axis from its first index to before its second."""

    time: Span
    rows: Span
    columns: Span

    def of(self, latent: Tensor, scale: int = 1) -> Tensor:
        """Cut the tile out of a latent (1, C, F, H, W) whose cells are ``scale`` times larger in space."""
        (first, last), (top, bottom), (left, right) = self.time, self.rows, self.columns
        return latent[
            :, :, first:last, top // scale : bottom // scale, left // scale : right // scale
        ].clone()


def split_cells(stage: Stage, *, scale: int = 1) -> tuple[Cells, ...]:
    """The tiles of ``stage`` in the order in which they are sampled: along columns, rows and then time.

    Rows and columns at which tiles begin and end are multiples of ``scale``, the factor by which a reference
    is smaller than the clip.
    """
    clip = stage.clip
    axes = []
    for size, overlap, unit in zip(
        (clip.latent_frames, clip.latent_height, clip.latent_width), OVERLAPS, (1, scale, scale), strict=True
    ):
        # In units of the reference's cells, so that the reference of each tile is whole.
        divided = spans(size // unit, stage.split, math.ceil(overlap / unit))
        axes.append(tuple((start * unit, stop * unit) for start, stop in divided))
    return tuple(Cells(time=t, rows=r, columns=c) for t, r, c in product(*axes))


def tile_stages(stage: Stage, cells: Sequence[Cells]) -> Iterator[Stage]:
    """The stage that samples each of ``cells``, the tiles of ``stage``."""
    for index, cell in enumerate(cells):
        clip = replace(
            stage.clip,
            width=(cell.columns[1] - cell.columns[0]) * SPATIAL_SCALE,
            height=(cell.rows[1] - cell.rows[0]) * SPATIAL_SCALE,
            frames=frames_of(cell.time[1] - cell.time[0]),
            changes=(),
        )
        # Tiles have the same positions, so that one seed would give all of them the same noise.
        yield replace(stage, clip=clip, split=1, start_seed=index)


def tile_conditioning(items: Sequence[Conditioning], cells: Cells) -> list[Conditioning]:
    """The conditioning of one tile: references of the whole clip are cut to it, and others stay.

    Raises ValueError for a guide that does not lie along the whole clip.
    """
    return [_cut(item, cells) if isinstance(item, GuideFrames) else item for item in items]


def _cut(guide: GuideFrames, cells: Cells) -> GuideFrames:
    if guide.frame or guide.single_frame or guide.time_scale != 1:
        raise ValueError(
            "a stage that is divided into tiles takes references of the whole clip, no keyframes"
        )
    return replace(guide, latent=cells.of(guide.latent, guide.scale))


def reference_scale_of(items: Sequence[Conditioning]) -> int:
    """The smallest number that all factors divide by which references among ``items`` are smaller."""
    return math.lcm(*(item.scale for item in items if isinstance(item, GuideFrames)))


def joined(parts: Sequence[Tensor], cells: Sequence[Cells], shape: torch.Size) -> Tensor:
    """Blend the latents ``parts`` (1, C, f, h, w) of the tiles ``cells`` to one of ``shape`` (1, C, F, H, W).

    Each part fades linearly towards its borders within the clip; the weights of a cell sum to 1.
    """
    total = torch.zeros(shape)
    weights = torch.zeros(1, 1, *shape[2:])
    for part, cell in zip(parts, cells, strict=True):
        ramps = [
            _ramp(span, [getattr(other, axis) for other in cells], part.device)
            for axis, span in (("time", cell.time), ("rows", cell.rows), ("columns", cell.columns))
        ]
        weight = (ramps[0][:, None, None] * ramps[1][:, None] * ramps[2])[None, None]
        (first, last), (top, bottom), (left, right) = cell.time, cell.rows, cell.columns
        total[:, :, first:last, top:bottom, left:right] += (part * weight).float().cpu()
        weights[:, :, first:last, top:bottom, left:right] += weight.cpu()
    return total / weights


def _ramp(span: Span, all_spans: Sequence[Span], device: torch.device) -> Tensor:
    """The weights of a tile's cells along one axis, of which ``all_spans`` are the tiles."""
    start, stop = span
    before = max((other[1] for other in all_spans if other[0] < start), default=start)
    after = min((other[0] for other in all_spans if other[1] > stop), default=stop)
    weight = torch.ones(stop - start, device=device)
    if (left := before - start) > 0:
        weight[:left] = torch.arange(1, left + 1, device=device) / (left + 1)
    if (right := stop - after) > 0:
        weight[-right:] *= torch.arange(right, 0, -1, device=device) / (right + 1)
    return weight


def sample_split(
    stage: Stage,
    latent: Tensor,
    items: Sequence[Conditioning],
    sample: Callable[[Stage, Tensor, Sequence[Conditioning]], Tensor],
) -> Tensor:
    """Sample ``stage`` in tiles, from the latent (1, C, F, H, W) of the whole clip; returns a new one.

    ``items`` are the conditioning of the whole clip. ``sample`` samples one tile: it is called with its
    stage, its latent and its conditioning.
    """
    cells = split_cells(stage, scale=reference_scale_of(items))
    parts = [
        sample(tile, cell.of(latent), tile_conditioning(items, cell))
        for tile, cell in zip(tile_stages(stage, cells), cells, strict=True)
    ]
    return joined(parts, cells, latent.shape).to(latent.device)
