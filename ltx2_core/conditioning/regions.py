"""Time regions to make anew: from seconds to latent frames, as masks, as text and as a picture.

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
"""From one second to another; nothing where both are the same."""


class Rounding(Enum):
    """Which latent frames a region takes: those that lie inside it (as KJNodes), all that it overlaps (as the
    official retake), or those too that it only touches (as DiffSynth)."""

    INSIDE = "inside"
    COVER = "cover"
    TOUCH = "touch"


@dataclass(frozen=True, kw_only=True)
class TimeRegions:
    """Makes the given seconds anew and keeps the rest of what a state holds.

    Regions of ``video`` and of ``audio`` are apart; none keeps the whole stream. With ``add`` the mask that
    is there already stays and the regions are opened besides.
    """

    video: Sequence[Region] = ()
    audio: Sequence[Region] = ()
    rounding: Rounding = Rounding.COVER
    add: bool = False

    def apply(self, state: LatentState) -> LatentState:
        """Raises ValueError for a region that ends before it begins."""
        before = expand_mask(state.mask, state.latent)
        video, audio = before.video, before.audio
        if video is not None:
            own = video.shape[2] - state.guide_frames
            chosen = video_cells(self.video, own, state.fps, self.rounding)
            opened = chosen.to(video).view(1, 1, -1, 1, 1).expand_as(video[:, :, :own])
            opened = torch.maximum(opened, video[:, :, :own]) if self.add else opened
            video = torch.cat((opened, video[:, :, own:]), dim=2)
        if audio is not None:
            chosen = audio_cells(self.audio, audio.shape[2], self.rounding)
            opened = chosen.to(audio).view(1, 1, -1, 1).expand_as(audio)
            audio = torch.maximum(opened, audio) if self.add else opened.clone()
        return replace(state, mask=AVLatent(video, audio))


def parse_regions(text: str) -> tuple[Region, ...]:
    """``"2-4, 5.5-6"`` -> ((2, 4), (5.5, 6)); empty text is no region.

    Raises ValueError for anything else, and for a region that ends before it begins.
    """
    regions = []
    for part in filter(None, (one.strip() for one in re.split(r"[,;\n]", text))):
        match = re.fullmatch(r"(\d*\.?\d+)\s*(?:-|to)\s*(\d*\.?\d+)", part)
        if match is None:
            raise ValueError(f"region {part!r} is not two times in seconds: write 2-4, or 2-4, 5.5-6")
        regions.append((float(match[1]), float(match[2])))
    return check_regions(regions)


def check_regions(regions: Sequence[Region]) -> tuple[Region, ...]:
    """The regions. Raises ValueError for one that is not from an earlier to a later second."""
    for start, end in regions:
        if not (math.isfinite(start) and math.isfinite(end) and 0 <= start <= end):
            raise ValueError(
                f"region {start:g}-{end:g} must run from a time of 0 s or later to one not before it"
            )
    return tuple(regions)


def video_cells(regions: Sequence[Region], latent_frames: int, fps: float, rounding: Rounding) -> Tensor:
    """Which of ``latent_frames`` the regions take, (F,) bool."""
    chosen = torch.zeros(latent_frames, dtype=torch.bool)
    if rounding is not Rounding.INSIDE:
        return _overlapped(check_regions(regions), video_positions(latent_frames, 1, 1, fps)[0, 0], rounding)
    for start, end in check_regions(regions):
        first, last = round(start * fps), round(end * fps)
        # Latent frame k begins at pixel frame 8k - 7.
        begin = -(-(first + TEMPORAL_SCALE - 1) // TEMPORAL_SCALE) if first else 0
        stop = (last + TEMPORAL_SCALE - 1) // TEMPORAL_SCALE
        chosen[begin:stop] |= start < end
    return chosen


def audio_cells(regions: Sequence[Region], length: int, rounding: Rounding) -> Tensor:
    """Which of ``length`` audio latents the regions take, (T,) bool."""
    chosen = torch.zeros(length, dtype=torch.bool)
    if rounding is not Rounding.INSIDE:
        return _overlapped(check_regions(regions), audio_positions(length)[0, 0], rounding)
    for start, end in check_regions(regions):
        first, last = round(start * AUDIO_LATENTS_PER_SECOND), round(end * AUDIO_LATENTS_PER_SECOND)
        chosen[first : last + 1] |= start < end
    return chosen


def _overlapped(regions: Sequence[Region], spans: Tensor, rounding: Rounding) -> Tensor:
    """Spans (N, 2) in seconds that the regions overlap, or touch."""
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
    """Latent and expanded mask, made longer with zeros to generate; what is long enough stays."""

    def pad(x: Tensor, length: int, value: float) -> Tensor:
        added = max(0, length - x.shape[2])
        return functional.pad(x, (0, 0) * (x.ndim - 3) + (0, added), value=value)

    def both(av: AVLatent, value: float) -> AVLatent:
        return AVLatent(
            None if av.video is None else pad(av.video, latent_frames, value),
            None if av.audio is None else pad(av.audio, audio_latents, value),
        )

    return both(latent, 0.0), both(mask, 1.0)


def spatial_cells(mask: Tensor, latent_frames: int, height: int, width: int) -> Tensor:
    """Picture masks (N, H, W) in [0, 1] -> the most of each latent cell (F, height, width).

    One mask is for every frame; of several the first is that of latent frame 0 and each later one takes 8.
    Raises ValueError if there are fewer than the clip has frames.
    """
    cells = functional.adaptive_max_pool2d(mask[:, None].float(), (height, width))[:, 0]
    if len(cells) == 1:
        return cells.expand(latent_frames, -1, -1)
    frames = frames_of(latent_frames)
    if len(cells) < frames:
        raise ValueError(f"{len(cells)} masks are given and the clip has {frames} frames: give one, or all")
    later = (
        rearrange(cells[1:frames], "(f g) h w -> f g h w", g=TEMPORAL_SCALE).amax(dim=1)
        if frames > 1
        else cells[:0]
    )
    return torch.cat((cells[:1], later))


@dataclass(frozen=True, kw_only=True)
class Covered:
    """What of one stream a mask makes anew: ``cells`` (N,) bool, and where each lies (N, 2) in seconds."""

    name: str
    cells: Tensor
    spans: Tensor

    @property
    def ranges(self) -> tuple[Region, ...]:
        """The seconds that are really covered, neighbours joined."""
        return tuple(
            (float(self.spans[first, 0]), float(self.spans[last, 1])) for first, last in self._runs()
        )

    def __str__(self) -> str:
        if not self.cells.any():
            return f"{self.name}: kept"
        parts = [
            f"{self.spans[first, 0]:.2f}-{self.spans[last, 1]:.2f} s (latents {first} to {last})"
            for first, last in self._runs()
        ]
        return f"{self.name}: {', '.join(parts)} of {float(self.spans[-1, 1]):.2f} s made anew"

    def _runs(self) -> list[tuple[int, int]]:
        runs: list[tuple[int, int]] = []
        for index in self.cells.nonzero().flatten().tolist():
            if runs and runs[-1][1] == index - 1:
                runs[-1] = (runs[-1][0], index)
            else:
                runs.append((index, index))
        return runs


def covered(mask: AVLatent, fps: float) -> tuple[Covered, ...]:
    """What an expanded mask, video (B, 1, F, H, W) and audio (B, 1, T, 1), makes anew in any part."""
    streams = []
    if mask.video is not None:
        spans = video_positions(mask.video.shape[2], 1, 1, fps)[0, 0]
        streams.append(Covered(name="video", cells=(mask.video > 0).any(4).any(3)[0, 0].cpu(), spans=spans))
    if mask.audio is not None:
        spans = audio_positions(mask.audio.shape[2])[0, 0]
        streams.append(Covered(name="audio", cells=(mask.audio > 0)[0, 0, :, 0].cpu(), spans=spans))
    return tuple(streams)
