"""The options of a long clip: its windows, their overlap, keyframes and source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from .arguments import checked
from .conditioning import Keyframe
from .sources import FrameSource
from .windows import OVERLAP_FRAMES, most_overlap


@dataclass(frozen=True, kw_only=True)
class LongVideo:
    """How a long clip is divided into windows, each of which is one sampling run.

    Attributes:
        window_frames: length of a window, 8k + 1 pixel frames; it decides memory and time of a run.
        overlap_frames: how many pixel frames, a multiple of 8, a window shares with the one before; None is
            24, or as many as fit a shorter window.
        overlap_strength: 1 preserves the shared frames; less regenerates them in part and cross-fades.
        adain_factor: 0 to 1, how far the mean and standard deviation of each channel of the video latent are
            brought back to those of the first window, against drift of colours and contrast; 0 is off.
        keyframes: single images that guide the clip, each at its frame of the whole clip; a negative one
            counts from the end. Of their numbers ``strength`` is used, but not ``attention``.
        source: a clip of at least the same length. It is the reference of an IC-LoRA, and sampling starts
            from it if ``denoise`` is below 1; each window uses its own frames of it.
        source_strength: how clean the source is as a reference: 1 is without noise, less lets the model
            change it, 0 does not use it as a reference.
        source_scale: how many times smaller than the clip the reference is encoded; None is what the LoRAs
            were trained with.
        denoise: the part of the schedule to run, 0 to 1; less preserves more of the source.

    Raises ValueError for a ``denoise`` other than 1 without a source.
    """

    window_frames: int = 121
    overlap_frames: int | None = None
    overlap_strength: float = 1.0
    adain_factor: float = 0.0
    keyframes: Sequence[Keyframe] = ()
    source: FrameSource | None = None
    source_strength: float = 1.0
    source_scale: int | None = None
    denoise: float = 1.0

    def __post_init__(self) -> None:
        """Check all values; raises TypeError or ValueError that names one which is not allowed."""
        names = ("window_frames", "overlap_frames", "overlap_strength", "adain_factor", "source_strength")
        for name, value in checked(**{name: getattr(self, name) for name in (*names, "denoise")}).items():
            # The dataclass is frozen, which holds for its own constructor, too.
            object.__setattr__(self, name, value)
        for keyframe in self.keyframes:
            if not isinstance(keyframe, Keyframe):
                raise TypeError(f"keyframes={keyframe!r:.60} must be Keyframe(frames=..., frame=...) each")
        if self.source is not None and not hasattr(self.source, "frame_count"):
            raise TypeError(f"source={self.source!r:.60} must be a FramesInFile or FramesInMemory")
        if self.denoise != 1 and self.source is None:
            raise ValueError(
                f"denoise={self.denoise:g} preserves a part of the source: set a source, or denoise=1"
            )

    @property
    def shared_frames(self) -> int:
        """How many pixel frames a window shares with the one before: ``overlap_frames`` or its default."""
        if self.overlap_frames is not None:
            return self.overlap_frames
        return min(OVERLAP_FRAMES, most_overlap(self.window_frames))


class WindowArguments(TypedDict, total=False):
    """The keywords of :class:`LongVideo` other than its source."""

    window_frames: int
    overlap_frames: int | None
    overlap_strength: float
    adain_factor: float
    keyframes: Sequence[Keyframe]
    source_strength: float
    source_scale: int | None
    denoise: float
