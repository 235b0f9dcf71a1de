"""Time regions to regenerate: parsed from text, turned from seconds into latents and masks, and reported.

Letters: B batch, F latent frames, H W latent rows and columns, T audio latent frames.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from ..shapes import AUDIO_LATENTS_PER_SECOND, TEMPORAL_SCALE, frames_of
from ..types import AVLatent, LatentState
from .masks import expand_mask
from .patchify import audio_positions, video_positions

Region = tuple[float, float]
"""Start and end in seconds; a region with the same start and end is empty."""


class Rounding(Enum):
    """Which latent frames belong to a time region whose ends lie inside latent frames.

    ``INSIDE``: those that lie inside the region (as in KJNodes). ``COVER``: all that it overlaps (as in the
    official retake pipeline). ``TOUCH``: also neighbours that only share a border with it (as in DiffSynth).
    """

    INSIDE = "inside"
    COVER = "cover"
    TOUCH = "touch"


@dataclass(frozen=True, kw_only=True)
class TimeRegions:
    """Sets the denoise mask to regenerate time regions and to preserve everything else.

    ``video`` and ``audio`` are lists of (start, end) in seconds; an empty list preserves the whole stream.
    ``rounding`` decides which latent frames belong to a region. With ``add`` the result is the larger of this
    mask and the one that the state already has.
    """

    video: Sequence[Region] = ()
    audio: Sequence[Region] = ()
    rounding: Rounding = Rounding.COVER
    add: bool = False

    def apply(self, state: LatentState) -> LatentState:
        """Return a copy of ``state`` with the mask of these regions; the mask of guide frames stays the same.

        Raises ValueError for a region that is negative, infinite, or ends before it begins.
        """
        before = expand_mask(state.mask, state.latent)
        video, audio = before.video, before.audio
        if video is not None:
            frames = video.shape[2] - state.guide_frames
            chosen = video_cells(self.video, frames, state.fps, self.rounding)
            opened = chosen.to(video).view(1, 1, -1, 1, 1).expand_as(video[:, :, :frames])
            # The maximum, so that nothing that was to be regenerated becomes preserved.
            opened = torch.maximum(opened, video[:, :, :frames]) if self.add else opened
            video = torch.cat((opened, video[:, :, frames:]), dim=2)
        if audio is not None:
            chosen = audio_cells(self.audio, audio.shape[2], self.rounding)
            opened = chosen.to(audio).view(1, 1, -1, 1).expand_as(audio)
            audio = torch.maximum(opened, audio) if self.add else opened.clone()
        return replace(state, mask=AVLatent(video, audio))


def parse_regions(text: str) -> tuple[Region, ...]:
    """Parse regions in seconds: ``"2-4, 5.5-6"`` -> ((2, 4), (5.5, 6)); empty text gives no region.

    Raises ValueError for text of another form, and for a region that ends before it begins.
    """
    regions = []
    for part in filter(None, (one.strip() for one in re.split(r"[,;\n]", text))):
        match = re.fullmatch(r"(\d*\.?\d+)\s*(?:-|to)\s*(\d*\.?\d+)", part)
        if match is None:
            raise ValueError(f"region {part!r} is not two times in seconds: write 2-4, or 2-4, 5.5-6")
        regions.append((float(match[1]), float(match[2])))
    return check_regions(regions)


def check_regions(regions: Sequence[Region]) -> tuple[Region, ...]:
    """Return ``regions``, pairs of start and end in seconds, as a tuple.

    Raises ValueError for a region that is negative, infinite, or ends before it begins, TypeError for
    anything else than pairs of numbers.
    """
    pairs = []
    for region in (regions,) if isinstance(regions, str) else regions:
        try:
            start, end = map(float, region if not isinstance(region, str) else ())
        except (TypeError, ValueError):
            raise TypeError(
                f"regions are pairs of start and end in seconds, such as [(2, 4)]; got {region!r:.60}"
            ) from None
        if not (math.isfinite(start) and math.isfinite(end) and 0 <= start <= end):
            raise ValueError(
                f"region {start:g}-{end:g} must start at 0 s or later and must not end before it starts"
            )
        pairs.append((start, end))
    return tuple(pairs)


def video_cells(regions: Sequence[Region], latent_frames: int, fps: float, rounding: Rounding) -> Tensor:
    """Which latent frames belong to the regions: (``latent_frames``,) bool.

    ``regions`` are (start, end) in seconds, ``fps`` is the frame rate of the clip. Raises ValueError for a
    region that is negative, infinite or reversed.
    """
    chosen = torch.zeros(latent_frames, dtype=torch.bool)
    if rounding is not Rounding.INSIDE:
        return _overlapped(check_regions(regions), video_positions(latent_frames, 1, 1, fps)[0, 0], rounding)
    for start, end in check_regions(regions):
        # Rounded to the nearest frame, since times of users are seldom exact multiples of 1 / fps.
        first, last = round(start * fps), round(end * fps)
        # Latent frame k begins at pixel frame 8k - 7.
        begin = -(-(first + TEMPORAL_SCALE - 1) // TEMPORAL_SCALE) if first else 0
        stop = (last + TEMPORAL_SCALE - 1) // TEMPORAL_SCALE
        # An empty region has a start and no length, and must select nothing.
        chosen[begin:stop] |= start < end
    return chosen


def audio_cells(regions: Sequence[Region], length: int, rounding: Rounding) -> Tensor:
    """Which of ``length`` audio latent frames belong to the regions: (``length``,) bool.

    ``regions`` are (start, end) in seconds. With ``INSIDE`` both ends are rounded to the nearest 1/25 s, and
    latent frame i stands for the time from i / 25 s on; the frame at the end is included, as in KJNodes.
    Other roundings choose by the times that audio latent frames have in the model.
    Raises ValueError for a region that is negative, infinite or reversed.
    """
    chosen = torch.zeros(length, dtype=torch.bool)
    if rounding is not Rounding.INSIDE:
        return _overlapped(check_regions(regions), audio_positions(length)[0, 0], rounding)
    for start, end in check_regions(regions):
        # As KJNodes does, latents are counted from 0 at 25 a second here, without the causal shift of their
        # positions.
        first, last = round(start * AUDIO_LATENTS_PER_SECOND), round(end * AUDIO_LATENTS_PER_SECOND)
        # An empty region must select nothing, although its slice has one latent.
        chosen[first : last + 1] |= start < end
    return chosen


def _overlapped(regions: Sequence[Region], spans: Tensor, rounding: Rounding) -> Tensor:
    """Whether each of ``spans`` overlaps a region: (spans,) bool.

    With the rounding ``TOUCH`` a span that only shares a border with a region counts too. ``spans``
    (spans, 2) and ``regions`` are start and end in seconds.
    """
    # Regions are Python floats; comparing in float64 avoids rounding them to float32 first.
    begin, end = spans[:, 0].double(), spans[:, 1].double()
    chosen = torch.zeros(len(spans), dtype=torch.bool)
    # The spans are float32, so a border a few ulp away is the same border.
    slack = 1e-5 if rounding is Rounding.TOUCH else -1e-5
    for start, stop in regions:
        if start < stop:
            chosen |= (end > start - slack) & (begin < stop + slack)
    return chosen


def extended(
    latent: AVLatent, mask: AVLatent, latent_frames: int, audio_latents: int
) -> tuple[AVLatent, AVLatent]:
    """Pad a latent and its denoise mask at the end: the latent with zeros, the mask with 1 (generate).

    The mask has as many latent frames as the latent: video (B, 1, F, H, W) and audio (B, 1, T, 1). Afterwards
    the video has at least ``latent_frames`` latent frames, and the audio at least ``audio_latents``. A stream
    that is long enough already is returned unchanged.
    """

    def pad(x: Tensor, length: int, value: float) -> Tensor:
        added = max(0, length - x.shape[2])
        return functional.pad(x, (0, 0) * (x.ndim - 3) + (0, added), value=value)

    def both(av: AVLatent, value: float) -> AVLatent:
        return AVLatent(
            None if av.video is None else pad(av.video, latent_frames, value),
            None if av.audio is None else pad(av.audio, audio_latents, value),
        )

    # What is added at the end is new and is generated in full.
    return both(latent, 0.0), both(mask, 1.0)


def spatial_cells(mask: Tensor, latent_frames: int, height: int, width: int) -> Tensor:
    """The maximum of pixel masks in each latent cell, (``latent_frames``, ``height``, ``width``).

    ``mask`` is (mask frames, pixel rows, pixel columns) in [0, 1]. A single mask frame serves all latent
    frames. Of several, the first belongs to latent frame 0, and each later latent frame takes the maximum of
    the next 8. Raises ValueError if there are several, but fewer than the clip has pixel frames.
    """
    # The maximum, because a cell is regenerated as a whole if any of its pixels is.
    cells = functional.adaptive_max_pool2d(mask[:, None].float(), (height, width))[:, 0]
    if len(cells) == 1:
        return cells.expand(latent_frames, -1, -1)
    frames = frames_of(latent_frames)
    if len(cells) < frames:
        raise ValueError(
            f"there are {len(cells)} masks and the clip has {frames} frames: use one mask, or one a frame"
        )
    later = (
        rearrange(cells[1:frames], "(f g) h w -> f g h w", g=TEMPORAL_SCALE).amax(dim=1)
        if frames > 1
        else cells[:0]
    )
    return torch.cat((cells[:1], later))


@dataclass(frozen=True, kw_only=True)
class Covered:
    """The part of one stream, video or audio, that a mask regenerates.

    ``name`` is that of the stream. ``cells`` (latent frames,) is True for latent frames with any mask value
    above 0; ``spans`` (latent frames, 2) are the start and end of each in seconds.
    """

    name: str
    cells: Tensor
    spans: Tensor

    @property
    def ranges(self) -> tuple[Region, ...]:
        """The regenerated time as (start, end) in seconds; regions of adjacent latent frames are joined."""
        return tuple(
            (float(self.spans[first, 0]), float(self.spans[last, 1])) for first, last in self._runs()
        )

    def __str__(self) -> str:
        if not self.cells.any():
            return f"{self.name}: preserved"
        parts = [
            f"{self.spans[first, 0]:.2f}-{self.spans[last, 1]:.2f} s (latents {first} to {last})"
            for first, last in self._runs()
        ]
        return f"{self.name}: {', '.join(parts)} of {float(self.spans[-1, 1]):.2f} s regenerated"

    def _runs(self) -> list[tuple[int, int]]:
        """First and last (inclusive) index of each run of adjacent latent frames that are regenerated."""
        runs: list[tuple[int, int]] = []
        for index in self.cells.nonzero().flatten().tolist():
            if runs and runs[-1][1] == index - 1:
                runs[-1] = (runs[-1][0], index)
            else:
                runs.append((index, index))
        return runs


def covered(mask: AVLatent, fps: float) -> tuple[Covered, ...]:
    """The latent frames of video and of audio in which an expanded mask regenerates at least one cell.

    ``mask`` is video (B, 1, F, H, W) and audio (B, 1, T, 1); one that is None is left out of the result.
    ``fps`` is the frame rate of the clip. Only the first sample of the batch is read.
    """
    streams = []
    if mask.video is not None:
        spans = video_positions(mask.video.shape[2], 1, 1, fps)[0, 0]
        streams.append(Covered(name="video", cells=(mask.video > 0).any(4).any(3)[0, 0].cpu(), spans=spans))
    if mask.audio is not None:
        spans = audio_positions(mask.audio.shape[2])[0, 0]
        streams.append(Covered(name="audio", cells=(mask.audio > 0)[0, 0, :, 0].cpu(), spans=spans))
    return tuple(streams)
