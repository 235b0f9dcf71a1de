"""The inputs of a request as a user names them: files, or values in memory, before anything is encoded.

Letters: N frames, C channels, S samples, H W pixel rows and columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, Final, Literal, TypeAlias

from torch import Tensor

from ..media.images import ImageSource
from ..types import AVLatent
from .regions import Region

AudioSource: TypeAlias = "str | PathLike[str] | tuple[Tensor, int]"
"""An audio or video file, or (waveform (C, S) in [-1, 1], sample rate in Hz)."""
VideoSource: TypeAlias = "str | PathLike[str] | Tensor"
"""A video file, or frames (N, 3, H, W) in [0, 1]."""
Fit: TypeAlias = Literal["crop", "pad", "stretch"]
FITS: Final[tuple[Fit, ...]] = ("crop", "pad", "stretch")
"""How images of another shape are brought to that of the clip: cut around the centre, with black borders, or
distorted."""


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

    def __post_init__(self) -> None:
        """Raises ValueError for a frame that is no whole number, and a strength outside 0 ... 1."""
        if isinstance(self.frame, bool) or not isinstance(self.frame, int):
            raise ValueError(f"the frame of an image is a whole number, -1 for the last; got {self.frame!r}")
        _check_strength(self.strength, "image")

    @classmethod
    def of(cls, value: Any) -> ImageAt:
        """An entry of ``images``: an :class:`ImageAt`, (image, frame) or (image, frame, strength).

        Raises ValueError for anything else.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, tuple | list) and len(value) in (2, 3):
            return cls(source=value[0], frame=value[1], strength=value[2] if len(value) == 3 else 1.0)
        raise ValueError(
            "images are ImageAt(source=..., frame=..., strength=...), (image, frame) or (image, frame, "
            f"strength); got {_described(value)}"
        )


@dataclass(frozen=True, kw_only=True)
class VideoReference:
    """A control video, or the reference of an IC-LoRA, as long as the clip, frame by frame.

    It is encoded ``scale`` times smaller than the clip, with every ``every``-th frame; None takes both from
    the LoRAs of the run.
    """

    source: VideoSource
    strength: float = 1.0
    scale: int | None = None
    every: int | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for a strength outside 0 ... 1, and a scale or step below 1."""
        _check_strength(self.strength, "reference")
        for name in ("scale", "every"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} of a reference is a whole number from 1; got {value!r}")

    @classmethod
    def of(cls, value: Any) -> VideoReference:
        """An entry of ``references``: a :class:`VideoReference`, a file or frames, or (video, strength).

        Raises ValueError for anything else.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, str | PathLike | Tensor):
            return cls(source=value)
        if isinstance(value, tuple | list) and len(value) == 2:
            return cls(source=value[0], strength=value[1])
        raise ValueError(
            "references are VideoReference(source=..., strength=..., scale=..., every=...), a video, or "
            f"(video, strength); got {_described(value)}"
        )


@dataclass(frozen=True, kw_only=True)
class AudioTrack:
    """Audio that becomes the audio of the clip, from second ``start_s`` on, cut or followed by silence.

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

    ``edit`` names the edit, such as ``retake``. It is a record: sampling does not read it.
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
    """All inputs of a request.

    ``fit`` says how images and control videos of another shape are brought to that of the clip. ``latents``
    are what sampling starts from in place of nothing, ``noise`` what the first stage takes in place of drawn
    noise.
    """

    image: FirstImage = field(default_factory=FirstImage)
    images: tuple[ImageAt, ...] = ()
    references: tuple[VideoReference, ...] = ()
    audio: AudioTrack = field(default_factory=AudioTrack)
    reference_audio: ReferenceVoice = field(default_factory=ReferenceVoice)
    fit: Fit = "crop"
    latents: AVLatent | None = None
    noise: AVLatent | None = None
    source_clip: SourceClip | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for entries that are no images or references, and an unknown ``fit``."""
        object.__setattr__(self, "images", tuple(map(ImageAt.of, _entries("images", self.images))))
        references = map(VideoReference.of, _entries("references", self.references))
        object.__setattr__(self, "references", tuple(references))
        if isinstance(self.image.source, list | tuple):
            raise ValueError(
                f"image is one image, or a clip as a tensor; got {_described(self.image.source)}. For several "
                "give their frames: images=[(first, 0), (last, -1)]"
            )
        if self.fit not in FITS:
            raise ValueError(f"fit is one of {', '.join(FITS)}; got {self.fit!r}")


def _entries(name: str, value: Any) -> Sequence[Any]:
    """The entries of ``images`` or ``references``, which are a list of any length."""
    if isinstance(value, list | tuple):
        return value
    raise ValueError(f"{name} is a list, such as {name}=[...]; got {_described(value)}")


def _check_strength(strength: Any, what: str) -> None:
    number = isinstance(strength, int | float) and math.isfinite(strength)
    if not (number and 0 <= strength <= 1):
        raise ValueError(
            f"the strength of {'an' if what[0] in 'aeiou' else 'a'} {what} is a number from 0 to 1; got "
            f"{strength!r}"
        )


def _described(value: Any) -> str:
    """A value in a few words, for an error."""
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return repr(value) if isinstance(value, str | int | float | None) else type(value).__name__
