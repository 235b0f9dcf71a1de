"""The inputs of a request as a user names them: files, or values in memory, before anything is encoded.

Letters: N frames, C channels, S samples, H W pixel rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from os import PathLike
from typing import TypeAlias

from torch import Tensor

from ..media.images import ImageSource
from ..types import AVLatent
from .regions import Region

AudioSource: TypeAlias = "str | PathLike[str] | tuple[Tensor, int]"
"""An audio or video file, or (waveform (C, S) in [-1, 1], sample rate in Hz)."""
VideoSource: TypeAlias = "str | PathLike[str] | Tensor"
"""A video file, or frames (N, 3, H, W) in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class FirstImage:
    """The image, or clip (N, 3, H, W) in [0, 1], that takes the place of the first latent frames.

    ``strength`` 1 preserves it, 0 ignores it; a second stage always uses 1. ``crf`` is the strength of the
    H.264 round trip of a single image, 0 is off; None is left to the recipe of the checkpoint.
    """

    source: ImageSource | None = None
    strength: float = 1.0
    crf: int | None = None


@dataclass(frozen=True, kw_only=True)
class ImageAt:
    """An image that guides the clip at pixel frame ``frame``; -1 is the last frame.

    ``strength`` and ``crf`` are those of :class:`FirstImage`.
    """

    source: ImageSource
    frame: int = 0
    strength: float = 1.0
    crf: int | None = None


@dataclass(frozen=True, kw_only=True)
class VideoReference:
    """A control video, or another reference for an IC-LoRA, frame by frame for the whole clip.

    It is encoded at 1/``scale`` of the clip's width and height, with one of each ``every`` frames; None takes
    both from the LoRAs of the run. ``strength`` 1 encodes it without noise.
    """

    source: VideoSource
    strength: float = 1.0
    scale: int | None = None
    every: int | None = None


@dataclass(frozen=True, kw_only=True)
class AudioTrack:
    """Audio that becomes the audio of the clip, which begins at second ``start_s`` of it.

    It is cut, or padded with silence, to the length of the clip.
    ``noise_db`` is the loudness (dB of full scale) of noise that is added to what is encoded; the audio that
    is returned stays clean.
    """

    source: AudioSource | None = None
    start_s: float = 0.0
    noise_db: float | None = None


@dataclass(frozen=True, kw_only=True)
class ReferenceVoice:
    """Audio, such as a voice, that the generated audio imitates; for LoRAs trained for it.

    Its first ``seconds`` are used. ``identity`` is the guidance scale towards it, 0 is off; it costs one more
    guidance pass a step.
    """

    source: AudioSource | None = None
    seconds: float = 5.0
    identity: float = 3.0


@dataclass(frozen=True, kw_only=True)
class SourceClip:
    """The video file that an edit started from, and the seconds of each stream that it regenerated.

    ``edit`` names the edit, such as ``retake``. This is only a record; sampling does not read it.
    """

    path: str
    edit: str
    video: tuple[Region, ...] = ()
    audio: tuple[Region, ...] = ()

    def __post_init__(self) -> None:
        for name in ("video", "audio"):
            # JSON has lists of lists.
            regions = tuple((float(start), float(end)) for start, end in getattr(self, name))
            object.__setattr__(self, name, regions)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """All inputs of a request; with ``latents`` sampling starts from these, else from an empty clip."""

    image: FirstImage = field(default_factory=FirstImage)
    images: tuple[ImageAt, ...] = ()
    references: tuple[VideoReference, ...] = ()
    audio: AudioTrack = field(default_factory=AudioTrack)
    reference_audio: ReferenceVoice = field(default_factory=ReferenceVoice)
    latents: AVLatent | None = None
    source_clip: SourceClip | None = None

    def __post_init__(self) -> None:
        # Callers and JSON may pass lists, which would make a frozen value changeable.
        object.__setattr__(self, "images", tuple(self.images))
        object.__setattr__(self, "references", tuple(self.references))
